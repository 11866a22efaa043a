"""Delivery of fired alerts to webhooks.

In: records of `market.alerts`. Out: at least one HTTP POST per alert whose rule has a webhook, and the result in the
store. The POST is signed if the rule has a secret.

`service.AlertDelivery` runs two parts that share one table, the outbox `alert_webhooks`. `outbox_intake` fills the
table from the log. `webhooks` sends the webhooks in the table, and retries them. `retry_schedule` contains the backoff,
`signature` the headers of a request, and `webhook_client` the HTTP client. `errors` contains the error of a failed
attempt, and `metrics` the counters. Begin with `webhooks`.
"""
