/** The dashboard's state, independent of page and socket: the newest price by symbol and the bars of one chart. */

export type State = "forming" | "final" | "withdrawn";

/** One bar; `time` is its start in seconds UTC. Prices are null in a withdrawn bar. */
export interface Bar {
  time: number;
  symbol: string;
  interval: string;
  open: number | null;
  high: number | null;
  low: number | null;
  close: number | null;
  volume: number;
  state: State;
  version: number;
  revision: number;
}

export interface Quote {
  symbol: string;
  last: number | null;
  /** Open of the daily bar that `last` belongs to. */
  dayOpen: number | null;
  volume: number | null;
  /** Start of that daily bar, in seconds UTC. */
  dayTime?: number;
}

const MINUTES_KEPT = 5;

/** Newest quote by symbol, from bars of any interval. `touched` collects changed symbols; the caller clears it. */
export class Watchlist {
  readonly quotes = new Map<string, Quote>();
  readonly touched = new Set<string>();
  /** Closes of the last minutes by symbol and time, newest last. If the newest is withdrawn, the previous close is
   * the price. */
  private readonly minutes = new Map<string, Map<number, number>>();

  take(bar: Bar): void {
    if (bar.state === "withdrawn") {
      this.withdraw(bar);
      return;
    }
    if (bar.close === null) return;
    const quote = this.quotes.get(bar.symbol) ?? { symbol: bar.symbol, last: null, dayOpen: null, volume: null };
    if (bar.interval === "1d") {
      quote.dayOpen = bar.open;
      quote.volume = bar.volume;
      if (quote.last === null) quote.last = bar.close;
      quote.dayTime = bar.time;
    } else if (bar.interval === "1m" && this.note(bar.symbol, bar.time, bar.close)) {
      quote.last = bar.close;
    }
    this.quotes.set(bar.symbol, quote);
    this.touched.add(bar.symbol);
  }

  /** Store the close of a minute unless a newer minute is known; return whether it was stored. */
  private note(symbol: string, time: number, close: number): boolean {
    const kept = this.minutes.get(symbol) ?? new Map<number, number>();
    this.minutes.set(symbol, kept);
    if (time < ([...kept.keys()].at(-1) ?? -Infinity)) return false;
    kept.set(time, close);
    if (kept.size > MINUTES_KEPT) kept.delete([...kept.keys()][0]!);
    return true;
  }

  private withdraw(bar: Bar): void {
    const quote = this.quotes.get(bar.symbol);
    if (quote === undefined) return;
    if (bar.interval === "1d" && quote.dayTime === bar.time) {
      quote.dayOpen = quote.volume = null;
    } else if (bar.interval === "1m") {
      const kept = this.minutes.get(bar.symbol);
      const newest = [...(kept?.keys() ?? [])].at(-1);
      kept?.delete(bar.time);
      if (newest === bar.time) quote.last = [...kept!.values()].at(-1) ?? null;
    }
    this.touched.add(bar.symbol);
  }

  price(symbol: string, price: number): void {
    const quote = this.quotes.get(symbol) ?? { symbol, last: null, dayOpen: null, volume: null };
    quote.last = price;
    this.quotes.set(symbol, quote);
    this.touched.add(symbol);
  }
}

/** Change of a quote against the day's open, as a fraction of the absolute open; null if one is missing or the open is 0. */
export function dayChange(quote: Quote): number | null {
  if (quote.last === null || quote.dayOpen === null || quote.dayOpen === 0) return null;
  return (quote.last / quote.dayOpen - 1) * Math.sign(quote.dayOpen);
}

export type Change = { kind: "update" | "revise" | "insert" | "remove"; bar: Bar } | { kind: "none" };

/** The bars of one symbol and interval, ascending in time; the newest version of a bar wins. */
export class Series {
  bars: Bar[] = [];

  set(bars: Bar[]): void {
    this.bars = [];
    for (const bar of [...bars].sort((a, b) => a.time - b.time)) this.take(bar);
  }

  /**
   * Apply a bar and return the change for a chart: append or replace the last bar (`update`), change an older one
   * (`revise`), insert one between others (`insert`), or remove one (`remove`).
   */
  take(bar: Bar): Change {
    const at = this.place(bar.time);
    const known = this.bars[at];
    if (known?.time === bar.time) {
      if (bar.version < known.version) return { kind: "none" };
      if (known.state !== "forming" && bar.state === "forming") return { kind: "none" };
      if (bar.state === "withdrawn") {
        this.bars.splice(at, 1);
        return { kind: "remove", bar };
      }
      this.bars[at] = bar;
      return { kind: at === this.bars.length - 1 ? "update" : "revise", bar };
    }
    if (bar.state === "withdrawn" || bar.close === null) return { kind: "none" };
    this.bars.splice(at, 0, bar);
    return { kind: at === this.bars.length - 1 ? "update" : "insert", bar };
  }

  private place(time: number): number {
    let low = 0;
    let high = this.bars.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.bars[middle]!.time < time) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The values of one indicator by time, drawn as a line. */
export class Line {
  private points = new Map<number, number>();

  set(points: Array<[number, number]>): void {
    this.points = new Map(points.sort((a, b) => a[0] - b[0]));
  }

  get drawn(): Array<[number, number]> {
    return [...this.points];
  }

  /**
   * Apply a bar's value and return the change for a chart: change or append a point (`update`; `historical` if it is not
   * the last), draw the whole line (`redraw`), or nothing (`none`). Null removes the point of a withdrawn bar.
   */
  take(time: number, value: number | null): "update" | "historical" | "redraw" | "none" {
    const newest = [...this.points.keys()].at(-1) ?? -Infinity;
    if (value === null) return this.points.delete(time) ? "redraw" : "none";
    if (this.points.has(time) || time > newest) {
      this.points.set(time, value);
      return time < newest ? "historical" : "update";
    }
    this.set([...this.points, [time, value]]);
    return "redraw"; // a chart can change any point, but can add one only at the end
  }
}

/** Number of decimal places for a price of this size. */
export function digitsOf(price: number): number {
  return Math.abs(price) < 10 ? 5 : 2;
}

/** Format a price with the decimal places of its size: 1.08342, 189.23, 43,120.55; null gives a dash. */
export function formatPrice(price: number | null): string {
  if (price === null) return "–";
  return price.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: digitsOf(price) });
}

export function formatVolume(volume: number | null): string {
  if (volume === null) return "–";
  return new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(volume);
}
