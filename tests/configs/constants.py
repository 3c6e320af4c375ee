# Constants are the file's own, whatever they are called.
WORKERS = 2
TIMEOUT = 77
Bind = "127.0.0.1:0"

workers = WORKERS + 1
