"""Triton kernels of the alias-free SnakeBeta: they read x (and the gradient) and write the result, without
intermediates.

A lane processes a chunk of SPAN consecutive samples in registers: it reads them with a halo, upsamples by two, applies
the snake and downsamples. Values shared by two chunks are computed twice, (SPAN + 5) / SPAN in all. The backward pass
recomputes the forward values from x, so only x is saved. Arithmetic is float32 for every dtype. Both filters are
symmetric with the same taps, so each is the other's adjoint up to the factor of two; the adjoint of repeating an edge
adds everything beyond it to the edge.

Shapes: J lanes of a program. Tuples hold one (J,) float32 tensor for every sample that a lane reads.
"""

import triton
import triton.language as tl

FIRST = tl.constexpr(-8)  # first sample read by a lane, relative to its own first one; the last is before SPAN + 8
FIRST_DOUBLED = tl.constexpr(-6)  # the same for the values at twice the rate


@triton.jit
def _load(pointer, starts_J, num_samples, SPAN: tl.constexpr):
    """Load samples FIRST to SPAN + 8 of every lane, zero outside the row: a tuple of (J,), read in vectors of four."""
    values = ()
    for quad in tl.static_range(-2, SPAN // 4 + 2):
        times = starts_J[:, None] + (4 * quad + tl.arange(0, 4))[None, :]
        tile = tl.load(pointer + times, mask=(times >= 0) & (times < num_samples), other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(tile, (starts_J.shape[0], 2, 2)))
        first, third = tl.split(even)
        second, fourth = tl.split(odd)
        values = values + (first, second, third, fourth)
    return values


@triton.jit
def _store(pointer, values, starts_J, num_samples, length, SPAN: tl.constexpr):
    """Store SPAN values of every lane; zero beyond the item's length."""
    for quad in tl.static_range(SPAN // 4):
        even = tl.join(values[4 * quad], values[4 * quad + 2])
        odd = tl.join(values[4 * quad + 1], values[4 * quad + 3])
        tile = tl.reshape(tl.join(even, odd), (starts_J.shape[0], 4))
        times = starts_J[:, None] + (4 * quad + tl.arange(0, 4))[None, :]
        tile = tl.where(times < length, tile, 0.0).to(pointer.dtype.element_ty)
        tl.store(pointer + times, tile, mask=times < num_samples)


@triton.jit
def _repeat_edges(values, starts_J, length, FIRST: tl.constexpr):
    """Replace the values before and after the item by its first and last value."""
    filled = ()
    for number in tl.static_range(len(values)):
        if number + FIRST < 0:  # only the lane that starts the row reads samples before it
            value = tl.where(starts_J > 0, values[number], values[-FIRST])
        elif number + FIRST == 0:
            value = values[number]
        else:
            value = tl.where(starts_J + (number + FIRST) < length, values[number], filled[number - 1])
        filled = filled + (value,)
    return filled


@triton.jit
def _fold_edges(values, starts_J, length, FIRST: tl.constexpr):
    """Adjoint of `_repeat_edges`: adds the values before and after the item to its first and last value."""
    folded = ()
    carried = tl.zeros_like(values[0])
    for number in tl.static_range(len(values) - 1, -FIRST, -1):
        value = values[number] + carried
        inside = starts_J + (number + FIRST) < length
        carried = tl.where(inside, 0.0, value)
        folded = (tl.where(inside, value, 0.0),) + folded
    folded = (values[-FIRST] + carried,) + folded
    before = ()
    carried = tl.zeros_like(values[0])
    for number in tl.static_range(-FIRST):
        carried += tl.where(starts_J > 0, 0.0, values[number])
        before = before + (tl.where(starts_J > 0, values[number], 0.0),)
    return before + (folded[0] + carried,) + folded[1:]


@triton.jit
def _double(values, TAPS: tl.constexpr, SPAN: tl.constexpr):
    """Upsample by two, from FIRST_DOUBLED to 2 * (SPAN + 5), without the gain of two."""
    doubled = ()
    for number in tl.static_range(SPAN + 8):
        even = TAPS[0] * values[number + 2]
        odd = TAPS[1] * values[number + 3]
        for tap in tl.static_range(1, 6):
            even += TAPS[2 * tap] * values[number + 2 + tap]
            odd += TAPS[2 * tap + 1] * values[number + 3 + tap]
        doubled = doubled + (even, odd)
    return doubled


@triton.jit
def _halve(values, TAPS: tl.constexpr, FROM: tl.constexpr, TO: tl.constexpr):
    """Adjoint of `_double`, samples FROM to TO; missing values count as zero."""
    halved = ()
    for sample in tl.static_range(FROM, TO):
        total = tl.zeros_like(values[0])
        for tap in tl.static_range(12):
            if 2 * sample + tap + 1 >= 0 and 2 * sample + tap + 1 < len(values):
                total += TAPS[tap] * values[2 * sample + tap + 1]
        halved = halved + (total,)
    return halved


@triton.jit
def _fraction(value, rate):
    """Periods of the squared sine, rate * value, minus the nearest integer."""
    periods = value * rate
    return periods - tl.floor(periods + 0.5)


@triton.jit
def _sine(fraction):
    """sin(pi * fraction) for |fraction| <= 1/2: a least-squares polynomial, accurate to float32."""
    z = fraction * fraction
    total = 0.0772183862 * z - 0.598044194
    total = total * z + 2.55003119
    total = total * z - 5.16770687
    return (total * z + 3.14159258) * fraction


@triton.jit
def _cosine(fraction):
    """cos(pi * fraction) for |fraction| <= 1/2, likewise."""
    z = fraction * fraction
    total = -0.0243963243 * z + 0.234937314
    total = total * z - 1.335212
    total = total * z + 4.05870916
    total = total * z - 4.93480214
    return total * z + 1.0


@triton.jit
def _row(lengths_pointer, num_channels, num_samples, LANES: tl.constexpr, SPAN: tl.constexpr):
    """This program's row of B * C, the first sample of each lane, and the length of its item."""
    row = tl.program_id(0)
    starts_J = (tl.program_id(1) * LANES + tl.arange(0, LANES)) * SPAN
    length = num_samples
    if lengths_pointer is not None:
        length = tl.load(lengths_pointer + row // num_channels).to(tl.int32)
    return row, starts_J, length


@triton.jit
def forward_kernel(
    x_pointer,
    y_pointer,
    alpha_pointer,
    beta_pointer,
    lengths_pointer,
    num_channels,
    num_parts,
    PART: tl.constexpr,
    TAPS: tl.constexpr,
    LANES: tl.constexpr,
    SPAN: tl.constexpr,
):
    num_samples = num_parts * PART  # tells the compiler that rows are aligned
    row, starts_J, length = _row(lengths_pointer, num_channels, num_samples, LANES, SPAN)
    shift = row.to(tl.int64) * num_samples
    frequency = tl.exp(tl.load(alpha_pointer + row % num_channels).to(tl.float32))
    scale = 1.0 / (tl.exp(tl.load(beta_pointer + row % num_channels).to(tl.float32)) + 1e-9)
    x = _repeat_edges(_load(x_pointer + shift, starts_J, num_samples, SPAN), starts_J, length, FIRST)
    doubled = _double(x, TAPS, SPAN)
    active = ()
    for number in tl.static_range(2 * (SPAN + 6)):
        value = 2.0 * doubled[number]
        sine = _sine(_fraction(value, frequency * 0.3183098861837907))
        active = active + (value + scale * sine * sine,)
    active = _repeat_edges(active, 2 * starts_J, 2 * length, FIRST_DOUBLED)
    _store(y_pointer + shift, _halve(active, TAPS, 0, SPAN), starts_J, num_samples, length, SPAN)


@triton.jit
def backward_kernel(
    x_pointer,
    grad_pointer,
    grad_x_pointer,
    partial_pointer,
    alpha_pointer,
    beta_pointer,
    lengths_pointer,
    num_channels,
    num_parts,
    PART: tl.constexpr,
    TAPS: tl.constexpr,
    LANES: tl.constexpr,
    SPAN: tl.constexpr,
):
    num_samples = num_parts * PART
    row, starts_J, length = _row(lengths_pointer, num_channels, num_samples, LANES, SPAN)
    shift = row.to(tl.int64) * num_samples
    frequency = tl.exp(tl.load(alpha_pointer + row % num_channels).to(tl.float32))
    scale = 1.0 / (tl.exp(tl.load(beta_pointer + row % num_channels).to(tl.float32)) + 1e-9)
    x = _repeat_edges(_load(x_pointer + shift, starts_J, num_samples, SPAN), starts_J, length, FIRST)
    doubled = _double(x, TAPS, SPAN)
    grad = ()
    arrived = _load(grad_pointer + shift, starts_J, num_samples, SPAN)
    for number in tl.static_range(SPAN + 16):
        grad = grad + (tl.where(starts_J + (number + FIRST) < length, arrived[number], 0.0),)
    grad_active = _fold_edges(_double(grad, TAPS, SPAN), 2 * starts_J, 2 * length, FIRST_DOUBLED)
    grad_doubled = ()
    alpha_J, beta_J = tl.zeros_like(x[0]), tl.zeros_like(x[0])
    for number in tl.static_range(2 * (SPAN + 6)):
        value = 2.0 * doubled[number]
        fraction = _fraction(value, frequency * 0.3183098861837907)
        sine = _sine(fraction)
        slope = 2.0 * frequency * scale * sine * _cosine(fraction)
        grad_doubled = grad_doubled + (grad_active[number] * (1.0 + slope),)
        if number + FIRST_DOUBLED >= 0 and number + FIRST_DOUBLED < 2 * SPAN:
            inside = 2 * starts_J + (number + FIRST_DOUBLED) < 2 * length
            own = tl.where(inside, grad_active[number], 0.0)
            alpha_J += tl.where(inside, own * slope * value, 0.0)
            beta_J += tl.where(inside, own * sine * sine, 0.0)
    grad_x = _fold_edges(_halve(grad_doubled, TAPS, -3, SPAN + 3), starts_J, length, -3)
    own_x = ()
    for number in tl.static_range(SPAN):
        own_x = own_x + (2.0 * grad_x[number + 3],)
    _store(grad_x_pointer + shift, own_x, starts_J, num_samples, length, SPAN)
    partial_pointer += 2 * (row * tl.num_programs(1) + tl.program_id(1))
    tl.store(partial_pointer, tl.sum(alpha_J))
    tl.store(partial_pointer + 1, -scale * (1.0 - 1e-9 * scale) * tl.sum(beta_J))
