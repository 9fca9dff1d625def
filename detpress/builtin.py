"""How things that come with the package are named where a path may stand, too: `builtin:digits`."""

BUILTIN = "builtin:"
