import { describe, expect, it } from "vitest";
import { type Bar, Line, Series, Watchlist, dayChange, formatPrice } from "./model";

function bar(change: Partial<Bar>): Bar {
  return {
    time: 60, symbol: "AAPL", interval: "1m", open: 1, high: 3, low: 1, close: 2, volume: 10,
    state: "final", version: 1, revision: 0, ...change,
  };
}

describe("a series", () => {
  it("appends new bars and replaces the last", () => {
    const series = new Series();
    expect(series.take(bar({ state: "forming" })).kind).toBe("update");
    expect(series.take(bar({ version: 2, close: 3 })).kind).toBe("update");
    expect(series.bars.map((b) => b.close)).toEqual([3]);
  });

  it("revises an older bar in its place", () => {
    const series = new Series();
    series.set([bar({ time: 120 }), bar({ time: 60 })]);
    expect(series.take(bar({ time: 60, version: 5, close: 9, revision: 1 })).kind).toBe("revise");
    expect(series.bars.map((b) => [b.time, b.close])).toEqual([[60, 9], [120, 2]]);
  });

  it("inserts a late bar between the others", () => {
    const series = new Series();
    series.set([bar({ time: 180 }), bar({ time: 60 })]);
    expect(series.take(bar({ time: 120 })).kind).toBe("insert");
    expect(series.bars.map((b) => b.time)).toEqual([60, 120, 180]);
  });

  it("does not overwrite a closed bar with an older version or a forming state", () => {
    const series = new Series();
    series.take(bar({ version: 5 }));
    expect(series.take(bar({ version: 4, close: 9 })).kind).toBe("none");
    expect(series.take(bar({ version: 6, close: 9, state: "forming" })).kind).toBe("none");
  });

  it("removes a withdrawn bar", () => {
    const series = new Series();
    series.take(bar({}));
    expect(series.take(bar({ version: 2, state: "withdrawn", close: null })).kind).toBe("remove");
    expect(series.bars).toEqual([]);
  });

  it("removes a withdrawn forming bar, and adds it again when it has new prints", () => {
    const series = new Series();
    series.set([bar({}), bar({ time: 120, state: "forming", version: 2 })]);
    const gone = { time: 120, state: "withdrawn", open: null, high: null, low: null, close: null, volume: 0 } as const;
    expect(series.take(bar({ ...gone, version: 3 })).kind).toBe("remove");
    expect(series.take(bar({ ...gone, version: 3 })).kind).toBe("none");
    expect(series.bars.map((b) => b.time)).toEqual([60]);
    expect(series.take(bar({ time: 120, state: "forming", version: 4 })).kind).toBe("update");
    expect(series.take(bar({ time: 60, state: "withdrawn", version: 1, close: null })).kind).toBe("remove");
    expect(series.bars.map((b) => b.time)).toEqual([120]);
  });

  it("keeps a bar that is newer than its withdrawal", () => {
    const series = new Series();
    series.take(bar({ version: 5 }));
    expect(series.take(bar({ version: 4, state: "withdrawn", close: null })).kind).toBe("none");
    expect(series.bars.length).toBe(1);
  });
});

describe("a line of values", () => {
  it("changes, appends and inserts points", () => {
    const line = new Line();
    line.set([[120, 2], [60, 1]]);
    expect(line.take(60, 5)).toBe("historical");
    expect(line.take(120, 6)).toBe("update");
    expect(line.take(240, 7)).toBe("update");
    expect(line.take(180, 8)).toBe("redraw");
    expect(line.drawn).toEqual([[60, 5], [120, 6], [180, 8], [240, 7]]);
  });

  it("removes the point of a withdrawn bar", () => {
    const line = new Line();
    line.set([[60, 1], [120, 2]]);
    expect(line.take(120, null)).toBe("redraw");
    expect(line.take(180, null)).toBe("none");
    expect(line.drawn).toEqual([[60, 1]]);
  });
});

describe("the watchlist", () => {
  it("takes the last price from the newest minute and the change from the daily bar", () => {
    const list = new Watchlist();
    list.take(bar({ interval: "1d", open: 1, close: 1.5, volume: 99 }));
    list.take(bar({ time: 120, close: 2 }));
    list.take(bar({ time: 60, close: 7 }));
    expect(dayChange(list.quotes.get("AAPL")!)).toBe(1);
    expect([...list.touched]).toEqual(["AAPL"]);
  });

  it("a rise of a negative price is a positive change", () => {
    const list = new Watchlist();
    list.take(bar({ interval: "1d", open: -40, high: -30, low: -41, close: -30 }));
    list.take(bar({ time: 120, close: -30 }));
    expect(dayChange(list.quotes.get("AAPL")!)).toBe(0.25);
  });

  it("returns to the previous minute when the newest is withdrawn", () => {
    const list = new Watchlist();
    list.take(bar({ interval: "1d", time: 0, open: 1, close: 9, volume: 99 }));
    list.take(bar({ time: 60, close: 2 }));
    list.take(bar({ time: 120, close: 9, state: "forming" }));
    list.price("AAPL", 9);
    list.take(bar({ time: 60, state: "withdrawn", version: 2, close: null }));
    expect(list.quotes.get("AAPL")!.last).toBe(9);
    list.take(bar({ time: 60, version: 3, close: 2 }));
    expect(list.quotes.get("AAPL")!.last).toBe(9);
    list.take(bar({ time: 180, close: 8, state: "forming" }));
    list.take(bar({ time: 180, state: "withdrawn", version: 2, close: null }));
    expect(list.quotes.get("AAPL")!.last).toBe(9);
    list.take(bar({ time: 120, state: "withdrawn", version: 2, close: null }));
    expect(list.quotes.get("AAPL")!.last).toBe(null);
    list.take(bar({ interval: "1d", time: 0, state: "withdrawn", version: 2, close: null }));
    expect(dayChange(list.quotes.get("AAPL")!)).toBe(null);
    expect(list.quotes.get("AAPL")!.volume).toBe(null);
  });
});

it("formats prices with the decimal places of their size", () => {
  expect([1.08342, 189.234, 43120.55, null].map(formatPrice)).toEqual(["1.08342", "189.23", "43,120.55", "–"]);
});
