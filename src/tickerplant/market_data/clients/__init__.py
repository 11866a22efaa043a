"""The vendors' clients: one package for each vendor.

In: requests of the scheduler, symbols of a stream. Out: answers as batches, typed errors, events of a stream. Each
package has `client` (requests). Some have `messages` or `trades` (pure parsing) and `stream` (a live stream).

Begin with `twelvedata`. Shared: `frames` reads WebSocket messages in bulk, `liveness` detects that prices have stopped.
`vendors.columns` builds batches. `errors` is an earlier import path.
"""
