import { expect, it } from "vitest";
import { type Handlers, dispatch } from "./stream";

function recorder() {
  const seen: unknown[] = [];
  const handlers: Handlers = {
    bar: (bar) => seen.push(["bar", bar.symbol, bar.interval, bar.time, bar.close]),
    price: (symbol, price) => seen.push(["price", symbol, price]),
    values: (row) => seen.push(["values", row.symbol, row.time, row.values]),
    ticks: (count) => seen.push(["ticks", count]),
    connection: () => undefined,
    resync: () => seen.push(["resync"]),
  };
  return { seen, handlers };
}

const columns = ["time_us", "symbol", "interval", "open", "high", "low", "close", "volume", "state", "version", "revision"];

it("reads bars of an update and of a snapshot alike", () => {
  const row = [60_000_000, "AAPL", "1m", 1, 3, 1, 2, 10, "final", 7, 0];
  const { seen, handlers } = recorder();
  dispatch({ type: "bars", columns, rows: [row] }, handlers);
  dispatch({ type: "snapshot", bars: { columns, rows: [row] } }, handlers);
  expect(seen).toEqual([["bar", "AAPL", "1m", 60, 2], ["bar", "AAPL", "1m", 60, 2]]);
});

it("keeps the newest of many ticks of a symbol and counts them all", () => {
  const { seen, handlers } = recorder();
  dispatch({ type: "ticks", columns: ["symbol", "price"], rows: [["A", 1], ["A", 2], ["B", 5]] }, handlers);
  expect(seen).toEqual([["ticks", 3], ["price", "A", 2], ["price", "B", 5]]);
});

it("separates values from the key columns of their bar", () => {
  const { seen, handlers } = recorder();
  const table = {
    columns: ["time_us", "symbol", "interval", "state", "version", "rsi_14"],
    rows: [[60_000_000, "A", "1m", "final", 1, 55.5]],
  };
  dispatch({ type: "analytics", ...table }, handlers);
  expect(seen).toEqual([["values", "A", 60, { rsi_14: 55.5 }]]);
});

it("passes on the withdrawal of a bar and of its values", () => {
  const { seen, handlers } = recorder();
  const gone = [120_000_000, "AAPL", "1m", null, null, null, null, 0, "withdrawn", 9, 1];
  dispatch({ type: "bars", columns, rows: [gone] }, handlers);
  const table = {
    columns: ["time_us", "symbol", "interval", "state", "version", "rsi_14"],
    rows: [[120_000_000, "AAPL", "1m", "withdrawn", 9, null]],
  };
  dispatch({ type: "analytics", ...table }, handlers);
  expect(seen).toEqual([["bar", "AAPL", "1m", 120, null], ["values", "AAPL", 120, { rsi_14: null }]]);
});

it("ignores messages of unknown types", () => {
  const { seen, handlers } = recorder();
  dispatch({ type: "something new" }, handlers);
  expect(seen).toEqual([]);
});

it("reports that the stream could not resume", () => {
  const { seen, handlers } = recorder();
  dispatch({ type: "resync", message: "too old" }, handlers);
  expect(seen).toEqual([["resync"]]);
});
