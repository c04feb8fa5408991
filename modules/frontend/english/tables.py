"""English abbreviations, units, names and symbols: tables of what is written and what is said."""

TITLES = {  # before a name
    "Adm": "Admiral", "Capt": "Captain", "Cmdr": "Commander", "Col": "Colonel", "Dr": "Doctor", "Gen": "General",
    "Gov": "Governor", "Hon": "Honorable", "Lt": "Lieutenant", "Maj": "Major", "Messrs": "Messieurs", "Mr": "Mister",
    "Mrs": "Missus", "Ms": "Miz", "Pres": "President", "Prof": "Professor", "Rep": "Representative",
    "Rev": "Reverend", "Sen": "Senator", "Sgt": "Sergeant", "Ft": "Fort", "Mt": "Mount", "St": "Saint",
}  # fmt: skip
STREETS = {  # behind a name or an ordinal
    "Ave": "Avenue", "Blvd": "Boulevard", "Dr": "Drive", "Hwy": "Highway", "Ln": "Lane", "Pkwy": "Parkway",
    "Rd": "Road", "Sq": "Square", "St": "Street",
}  # fmt: skip
AFTER_NAMES = {"Co": "Company", "Corp": "Corporation", "Inc": "Incorporated", "Jr": "Junior", "Ltd": "Limited",
               "Sr": "Senior"}  # fmt: skip
BEFORE_NUMBERS = {  # case aside
    "apt": "apartment", "ca": "circa", "ch": "chapter", "eq": "equation", "est": "established",
    "ext": "extension", "fig": "figure", "figs": "figures", "no": "number", "nos": "numbers", "p": "page",
    "pp": "pages", "sec": "section", "ste": "suite", "tel": "telephone", "vol": "volume", "vols": "volumes",
}  # fmt: skip
ANYWHERE = {  # case aside
    "a.k.a.": "also known as", "approx": "approximately",
    "approx.": "approximately", "assoc.": "association", "c/o": "care of", "cf.": "compare",
    "dept.": "department", "e.g.": "for example", "et al.": "and others", "etc": "et cetera", "etc.": "et cetera",
    "govt.": "government", "i.e.": "that is", "vs": "versus", "vs.": "versus", "w/": "with", "w/o": "without",
}  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
SHORT_MONTHS = {"Sept": "September", **{month[:3]: month for month in MONTHS if month != "May"}}
WEEKDAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
ALONE = ("Aug", "Sept", "Oct", "Nov", "Dec", "Feb", "Tues", "Thurs")  # an abbreviation with or without a number

# An abbreviation that a name follows, and those that end a sentence only before a capital letter.
NEVER_LAST = frozenset(f"{name.lower()}." for name in (*TITLES, "e.g", "i.e", "cf", "approx") if name != "St")
RARELY_LAST = frozenset(
    [f"{name.lower()}." for name in (*STREETS, *AFTER_NAMES, *BEFORE_NUMBERS)]
    + [
        "approx.",
        "dept.",
        "vs.",
        "etc.",
        "a.m.",
        "p.m.",
        "mon.",
        "tue.",
        "tues.",
        "wed.",
        "thu.",
        "thurs.",
        "fri.",
        "jan.",
        "feb.",
        "aug.",
        "sept.",
        "oct.",
        "nov.",
        "dec.",
    ]
)

CURRENCIES = {  # one, many, one hundredth, many hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "jeon", "jeon"),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₿": ("bitcoin", "bitcoins", "", ""),
    "₺": ("lira", "lira", "kurus", "kurus"),
    "₪": ("shekel", "shekels", "agora", "agorot"),
    "₫": ("dong", "dong", "", ""),
}
DOLLARS = {"US": "US", "A": "Australian", "AU": "Australian", "C": "Canadian", "CA": "Canadian", "NZ": "New Zealand",
           "HK": "Hong Kong", "S": "Singapore"}  # fmt: skip
CODES = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "KRW": "₩"}
SCALES = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "b": "billion",
          "B": "billion", "bn": "billion", "tn": "trillion", "T": "trillion"}  # fmt: skip

UNITS = {  # what wetext lacks or mistakes: m as minutes, V and W as letters
    "m": ("meter", "meters"), "m/s": ("meter per second", "meters per second"), "g": ("gram", "grams"),
    "l": ("liter", "liters"), "L": ("liter", "liters"), "V": ("volt", "volts"), "W": ("watt", "watts"),
    "Wh": ("watt hour", "watt hours"), "mAh": ("milliampere hour", "milliampere hours"), "dB": ("decibel", "decibels"),
    "nm": ("nanometer", "nanometers"), "µm": ("micrometer", "micrometers"), "µs": ("microsecond", "microseconds"),
    "kB": ("kilobyte", "kilobytes"), "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"), "fps": ("frame per second", "frames per second"),
    "rpm": ("revolution per minute", "revolutions per minute"), "px": ("pixel", "pixels"), "mi": ("mile", "miles"),
    "yd": ("yard", "yards"), "kcal": ("kilocalorie", "kilocalories"), "hr": ("hour", "hours"),
    "m/s²": ("meter per second squared", "meters per second squared"),
    "kB/s": ("kilobyte per second", "kilobytes per second"),
    "MB/s": ("megabyte per second", "megabytes per second"), "GB/s": ("gigabyte per second", "gigabytes per second"),
    "hrs": ("hour", "hours"), "min": ("minute", "minutes"), "mins": ("minute", "minutes"), "sec": ("second", "seconds"),
    "secs": ("second", "seconds"), "sq. ft.": ("square foot", "square feet"), "sq ft": ("square foot", "square feet"),
    "fl. oz.": ("fluid ounce", "fluid ounces"), "ft.": ("foot", "feet"), "lbs.": ("pound", "pounds"),
    "lb.": ("pound", "pounds"), "oz.": ("ounce", "ounces"), "hr.": ("hour", "hours"), "hrs.": ("hour", "hours"),
    "min.": ("minute", "minutes"), "sec.": ("second", "seconds"),
}  # fmt: skip
WETEXT_UNITS = ("km", "kg", "cm", "mm", "ml", "ms", "mg", "GB", "MB", "KB", "TB", "Hz", "kHz", "MHz", "GHz", "mph",
                "km/h", "°C", "°F", "°", "ft", "lbs", "lb", "oz", "kW", "kWh", "MW", "m²", "km²", "h")  # fmt: skip

VULGAR_FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
                    "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
SET_PHRASES = {"24/7": "twenty four seven", "9/11": "nine eleven", "50/50": "fifty fifty", "20/20": "twenty twenty",
               "7/11": "seven eleven"}  # fmt: skip
REGNAL_NAMES = (
    "Alexander", "Benedict", "Catherine", "Charles", "Clement", "Edward", "Elizabeth", "Ferdinand", "Francis",
    "Frederick", "Friedrich", "George", "Gregory", "Gustav", "Henry", "Innocent", "Ivan", "James", "Leo",
    "Leopold", "Louis", "Mary", "Napoleon", "Nicholas", "Otto", "Paul", "Peter", "Philip", "Pius", "Ramses",
    "Ramesses", "Richard", "Robert", "Urban", "Victor", "Wilhelm", "William",
)  # fmt: skip
NUMBERED = (
    "Act", "Appendix", "Article", "Book", "Bowl", "Chapter", "Class", "Episode", "Fantasy", "Grade", "Level",
    "Part", "Phase", "Rocky", "Scene", "Section", "Stage", "Title", "Type", "Unit", "Volume", "War",
)  # fmt: skip
SYMBOLS = {  # by themselves, or between numbers and words
    "&": "and", "@": "at", "%": "percent", "#": "number", "+": "plus", "=": "equals", "×": "times", "÷": "divided by",
    "±": "plus or minus", "≈": "about", "≥": "at least", "≤": "at most", "≠": "is not equal to",
    "°": "degrees", "§": "section", "№": "number", "©": "copyright",
    "®": "", "™": "", "$": "dollars", "£": "pounds", "€": "euros", "¥": "yen", "¢": "cents", "₹": "rupees",
    "₩": "won", "₽": "rubles", "₿": "bitcoins", "₺": "lira", "₪": "shekels", "₫": "dong",
    "µ": "micro",
}  # fmt: skip
IN_ADDRESSES = {
    ".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "?": "question mark",
    "=": "equals", "&": "and", "#": "hash", "%": "percent", "~": "tilde", "+": "plus", ",": "comma", "www": "WWW",
}  # fmt: skip
TOP_DOMAINS = (
    "com", "org", "net", "edu", "gov", "io", "ai", "co", "uk", "de", "fr", "app", "dev", "info",
)  # fmt: skip
RELEASED = (
    "version", "Version", "release", "Release", "Python", "Ubuntu", "iOS", "Android", "macOS", "CUDA", "Java",
    "Chapter", "Section", "Figure", "Table",
)  # fmt: skip
STATES = (
    "AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN", "IA", "KS", "KY", "LA",
    "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM", "NY", "NC", "ND", "OH", "OK", "OR",
    "PA", "RI", "SC", "SD", "TN", "TX", "UT", "VT", "VA", "WA", "WV", "WI", "WY",
)  # fmt: skip
