# Names are taken as they are meant.
WORKERS = 2
TIMEOUT = 77
Bind = "127.0.0.1:0"
