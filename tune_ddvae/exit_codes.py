"""Exit codes of every command; the README documents them, and a test holds the two together."""

COMPLETE = 0  # everything asked for has ended, and at least one trial succeeded
NO_SUCCESS = 1  # everything has ended, and no trial succeeded
REFUSED = 2  # something asked for is wrong or missing; nothing was created
WORK_LEFT = 3  # stopped with work left: hours used up, one error again and again, no space left, a
# record or storage that went away
OWN_FAULT = 70  # an error of ours, shown with a traceback; what was recorded is kept
INTERRUPTED = 130  # Ctrl-C
TERMINATED = 143  # SIGTERM
