/** The plant's stream: one WebSocket that reconnects, decoded into bars, prices and indicator values. */

import type { Values } from "./chart";
import type { Bar, State } from "./model";

/** Rows of one kind in the wire format: column names once, then one array per row. */
export interface Table {
  columns: string[];
  rows: unknown[][];
}

export interface Handlers {
  bar(bar: Bar): void;
  price(symbol: string, price: number): void;
  values(row: Values): void;
  ticks(count: number): void;
  /** At `live` the connection has no subscription yet. */
  connection(state: "connecting" | "live" | "lost", detail?: string): void;
  /** The stream could not resume from the position of a subscription: records may be missing. */
  resync(): void;
}

const VALUE_KEY = ["time_us", "symbol", "interval", "state", "version"];

/** Rows as objects by column name. */
function* records(table: Table): Generator<Record<string, unknown>> {
  for (const row of table.rows) {
    yield Object.fromEntries(table.columns.map((name, at) => [name, row[at]]));
  }
}

export function toBar(row: Record<string, unknown>): Bar {
  return {
    time: Math.floor((row.time_us as number) / 1e6),
    symbol: row.symbol as string,
    interval: row.interval as string,
    open: row.open as number | null,
    high: row.high as number | null,
    low: row.low as number | null,
    close: row.close as number | null,
    volume: (row.volume as number | null) ?? 0,
    state: row.state as State,
    version: row.version as number,
    revision: row.revision as number,
  };
}

export function toValues(row: Record<string, unknown>): Values {
  const values: Record<string, number | null> = {};
  for (const [name, value] of Object.entries(row)) {
    if (!VALUE_KEY.includes(name)) values[name] = value as number | null;
  }
  return {
    time: Math.floor((row.time_us as number) / 1e6),
    symbol: row.symbol as string,
    interval: row.interval as string,
    values,
  };
}

/** Pass each row of a message to its handler. Unknown types of message are ignored. */
export function dispatch(message: Record<string, unknown>, to: Handlers): void {
  const type = message.type as string;
  if (type === "snapshot" || type === "conflated") {
    const { ticks, bars, analytics } = message as { ticks?: Table; bars?: Table; analytics?: Table[] };
    if (bars) for (const row of records(bars)) to.bar(toBar(row));
    if (ticks) takeTicks(ticks, to);
    for (const table of analytics ?? []) for (const row of records(table)) to.values(toValues(row));
    return;
  }
  const table = message as unknown as Table;
  if (type === "resync") to.resync();
  else if (type === "bars") for (const row of records(table)) to.bar(toBar(row));
  else if (type === "ticks") takeTicks(table, to);
  else if (type === "analytics") for (const row of records(table)) to.values(toValues(row));
}

function takeTicks(table: Table, to: Handlers): void {
  const symbol = table.columns.indexOf("symbol");
  const price = table.columns.indexOf("price");
  const newest = new Map<string, number>();
  for (const row of table.rows) newest.set(row[symbol] as string, row[price] as number);
  to.ticks(table.rows.length);
  for (const [name, value] of newest) to.price(name, value);
}

/** A connection that reconnects: after 0.5 s, then after twice the previous delay, at most 15 s. */
export class Stream {
  private socket: WebSocket | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private wait = 500;

  constructor(
    private readonly url: () => string,
    private readonly handlers: Handlers,
  ) {
    this.connect();
  }

  /** Replace the subscription by these messages, if connected. Each new connection needs a call. */
  subscribe(messages: object[]): void {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (const message of [{ action: "unsubscribe" }, ...messages]) this.socket.send(JSON.stringify(message));
  }

  /** Reconnect now instead of after the delay. */
  connectNow(): void {
    if (this.socket?.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.timer);
    this.connect();
  }

  private connect(): void {
    this.handlers.connection("connecting");
    const socket = new WebSocket(this.url());
    this.socket = socket;
    socket.onopen = () => {
      this.wait = 500;
      this.handlers.connection("live");
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      dispatch(JSON.parse(event.data) as Record<string, unknown>, this.handlers);
    };
    socket.onclose = (event) => {
      this.handlers.connection("lost", event.reason);
      this.timer = setTimeout(() => this.connect(), this.wait);
      this.wait = Math.min(this.wait * 2, 15_000);
    };
  }
}
