"""Words in a program's stderr that no test accepts."""

REPORTS = ("AddressSanitizer", "LeakSanitizer", "runtime error:", "UndefinedBehaviorSanitizer", "ThreadSanitizer",
           "assertion failed")
