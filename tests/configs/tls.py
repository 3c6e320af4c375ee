# TLS ends here.
bind = "0.0.0.0:8443"
certfile = "/etc/ssl/certs/shop.pem"
keyfile = "/etc/ssl/private/shop.key"
