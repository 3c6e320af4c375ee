"""licorne: an application server for Python web apps."""
