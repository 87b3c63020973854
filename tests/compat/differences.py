"""Where our histories differ from a real server's, and why. What is not in this list must not differ; what is in it must."""

# (event, attribute): why. (program, "order"): the events themselves differ.
EXPECTED: dict[tuple[str, str], str] = {}
