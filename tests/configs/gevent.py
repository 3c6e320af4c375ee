# Greenlets, patched as early as can be.
try:
    from gevent import monkey

    monkey.patch_all()
except ImportError:
    pass

worker_class = "gevent"
worker_connections = 1000
