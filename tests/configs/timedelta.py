# Times with their units, sizes with theirs.
from datetime import timedelta

timeout = int(timedelta(minutes=2).total_seconds())
graceful_timeout = timedelta(seconds=45).seconds
limit_request_line = 8 * 1024 - 2
max_requests = 10**5
