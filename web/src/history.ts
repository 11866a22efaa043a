/** Requests over REST: symbols, the bars and indicator values of one chart, and the health of the plant. */

import type { Values } from "./chart";
import { key } from "./key";
import type { Bar } from "./model";

const BARS = 600;

/** The plant requires an API key, and the key of this page is missing or invalid. */
export class NoKey extends Error {}

async function get(path: string): Promise<unknown> {
  const answer = await fetch(path, key() ? { headers: { "X-API-Key": key() } } : {});
  const body = (await answer.json()) as { error?: { message?: string } };
  if (answer.status === 401) throw new NoKey(body.error?.message);
  if (!answer.ok) throw new Error(body.error?.message ?? `${path} answered ${answer.status}`);
  return body;
}

function seconds(time: unknown): number {
  return Math.floor(Date.parse(time as string) / 1000);
}

export async function symbols(): Promise<string[]> {
  const body = (await get("v1/symbols")) as { symbols: Array<{ symbol: string }> };
  return body.symbols.map((row) => row.symbol);
}

export const ADJUSTMENTS = ["none", "splits", "all"] as const;
export type Adjustment = (typeof ADJUSTMENTS)[number];

/** The newest bars with the requested adjustment, and the log position of the read. */
export async function bars(symbol: string, interval: string, adjust: Adjustment): Promise<{ bars: Bar[]; position: unknown }> {
  const room = interval === "1d" ? "historical" : "intraday";
  const body = (await get(`v1/${room}/${encodeURIComponent(symbol)}?interval=${interval}&limit=${BARS}&adjust=${adjust}`)) as {
    bars: Array<Record<string, unknown>>;
    position: unknown;
  };
  const found = body.bars.map((row) => ({ ...row, time: seconds(row.time), symbol, interval }) as unknown as Bar);
  return { bars: found, position: body.position };
}

const KEY = new Set(["time", "symbol", "interval", "state", "version"]);

async function valuesAt(path: string, symbol: string, interval: string): Promise<Values[]> {
  const body = (await get(path)) as { values: Array<Record<string, unknown>> };
  return body.values.map((row) => ({
    time: seconds(row.time),
    symbol,
    interval,
    values: Object.fromEntries(Object.entries(row).filter(([name]) => !KEY.has(name))) as Record<string, number | null>,
  }));
}

/** Stored indicator values of the newest bars; [] if no indicators are configured for the interval. */
export async function values(symbol: string, interval: string): Promise<Values[]> {
  return valuesAt(`v1/analytics/${encodeURIComponent(symbol)}?interval=${interval}&limit=${BARS}`, symbol, interval);
}

/** Values of the requested indicators (`rsi?period=14`), computed now over the newest bars. */
export async function computed(
  asked: readonly string[],
  symbol: string,
  interval: string,
  limit: number = BARS,
): Promise<Values[]> {
  const rows = new Map<number, Values>();
  for (const one of asked) {
    const [name, parameters] = one.split("?");
    const path = `v1/indicators/${name}/${encodeURIComponent(symbol)}?${parameters}&interval=${interval}&limit=${limit}`;
    for (const row of await valuesAt(path, symbol, interval)) {
      const known = rows.get(row.time);
      if (known) Object.assign(known.values, row.values);
      else rows.set(row.time, row);
    }
  }
  return [...rows.values()].sort((a, b) => a.time - b.time);
}

/** The health that the plant reports: `ok`, `degraded` or `failed`; `lost` if it does not answer. */
export async function health(): Promise<string> {
  try {
    const answer = await fetch("health");
    return ((await answer.json()) as { status: string }).status;
  } catch {
    return "lost";
  }
}
