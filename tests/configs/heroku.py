# Behind a router that says where requests come from.
import os

port = int(os.environ.get("PORT", 8000))
bind = "0.0.0.0:%d" % port
forwarded_allow_ips = "*"
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
worker_tmp_dir = "/dev/shm"
log_file = "-"
