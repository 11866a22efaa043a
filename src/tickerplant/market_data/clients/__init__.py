"""The vendors' clients: one package for each vendor.

In: requests of the scheduler, symbols of a stream. Out: answers as batches, typed errors, events of a stream. Each
package has `messages` (pure parsing) and `client` (requests); packages with a live stream also have `stream`.

Begin with `twelvedata`. Shared: `frames` reads WebSocket messages in bulk, `liveness` detects that prices have stopped.
`vendors.columns` builds batches.
"""
