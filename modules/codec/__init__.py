"""The codec's parts in pure torch: each is a constructor argument of the next, so that a yaml can swap it."""
