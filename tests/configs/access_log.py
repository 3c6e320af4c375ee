# A line for a log collector.
accesslog = "-"
errorlog = "-"
capture_output = True
access_log_format = (
    '{"time":"%(t)s","remote":"%({x-forwarded-for}i)s","id":"%({x-request-id}i)s","request":"%(m)s %(U)s%(q)s",'
    '"status":%(s)s,"bytes":%(B)s,"took":%(D)s,"agent":"%(a)s"}'
)
