# One worker more than twice the CPUs.
import multiprocessing

bind = "127.0.0.1:0"
workers = multiprocessing.cpu_count() * 2 + 1
threads = 2
timeout = 120
