# gunicorn's own ASGI worker.
wsgi_app = "web:asgi"
worker_class = "asgi"
asgi_loop = "uvloop"
asgi_lifespan = "off"
http_parser = "fast"
websocket_max_message_size = 1024 * 1024
