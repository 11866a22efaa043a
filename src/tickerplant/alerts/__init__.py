"""Delivery of fired alerts to webhooks.

In: records of `market.alerts`. Out: one signed HTTP POST per alert, at least once, and the result in the store.

`service.AlertDelivery` runs two parts that share one table, the outbox `alert_webhooks`. `outbox_intake` fills it from
the log, and `webhooks` sends and retries. `retry_schedule` contains the backoff, `signature` the headers of a request,
and `webhook_client` the HTTP client. Begin with `webhooks`.
"""
