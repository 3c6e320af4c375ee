# Threads, with the heartbeat in memory.
worker_class = "gthread"
workers = 2
threads = 8
worker_tmp_dir = "/dev/shm"
keepalive = 65
worker_connections = 512
max_requests = 1000
max_requests_jitter = 50
