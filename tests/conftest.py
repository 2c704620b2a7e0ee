"""What holds for all tests."""

import signal

# A shell without job control starts what it puts in the background with SIGINT ignored, and children inherit that:
# tests that interrupt a program would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
