"""Delivery of fired alerts to webhooks.

In: records of `market.alerts`. Out: HTTP POSTs of the alerts whose rules have a webhook, and the results in the store.
A POST is repeated until the receiver accepts it or the attempts end. It is signed if the rule has a secret.

`service.AlertDelivery` runs two parts that share one table, the outbox `alert_webhooks`. `outbox_intake` fills the
table from the log. `webhooks` sends the webhooks in the table, and retries them. `retry_schedule` contains the backoff,
`signature` the headers of a request, and `webhook_client` the HTTP client. `errors` contains the error of a failed
attempt, and `metrics` the counters. Begin with `webhooks`.
"""
