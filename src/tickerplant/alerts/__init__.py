"""Delivery of fired alerts to webhooks.

In: records of `market.alerts`. Out: one signed HTTP POST per alert, at least once, and the result in the store.

`service.AlertDelivery` runs two halves that share one table, the outbox `alert_webhooks`: `outbox_intake` fills it from
the log, and `webhooks` sends and retries. `retry_schedule` is the backoff, `webhook_client` the HTTP request and its
signature. Begin reading at `webhooks`.
"""
