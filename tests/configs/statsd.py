# Metrics to an agent on this machine.
import os

statsd_host = os.environ.get("STATSD", "127.0.0.1:8125")
statsd_prefix = "shop"
dogstatsd_tags = "env:production,team:web"
