/** The dashboard: a list of symbols with live prices, and one live chart. */

import { ASKED, LINES, PriceChart, type Values } from "./chart";
import * as history from "./history";
import { readAddress, setKey, withKey } from "./key";
import { type Bar, Watchlist, dayChange, formatPrice, formatVolume } from "./model";
import { Stream } from "./stream";

const INTERVALS = ["1m", "5m", "1d"] as const;

function element<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id} in the page`);
  return found as T;
}

const watchlist = new Watchlist();
const chart = new PriceChart(element("chart"));
const rows = new Map<string, HTMLTableRowElement>();
let symbol = readAddress();
let interval: string = "1m";
let adjust: history.Adjustment = "splits"; // like the indicators' input; equal to the streamed bars from the last split on
let shown = "";
let streamed = true; // true if the stream sends values for the shown interval
let asking = 0;
let ticks = 0;
const EVERYTHING = { action: "subscribe", symbols: ["*"], channels: ["bars.1m", "bars.1d"] };

const stream = new Stream(() => new URL(withKey("v1/stream"), location.href).href.replace(/^http/, "ws"), {
  bar(bar) {
    watchlist.take(bar);
    if (bar.symbol === symbol && bar.interval === interval) offer(bar);
  },
  price(name, price) {
    watchlist.price(name, price);
  },
  values(row) {
    if (row.symbol === symbol && row.interval === interval) offer(row);
  },
  ticks(count) {
    ticks += count;
  },
  connection(state, detail) {
    const badge = element("connection");
    badge.dataset.state = state;
    badge.textContent = state;
    badge.title = detail ?? "";
    if (state !== "live") return;
    if (symbol) void show();
    else stream.subscribe([EVERYTHING]);
  },
  resync() {
    setTimeout(() => void show(), 2_000);
  },
});

/** Apply a bar or values of the stream to the chart, unless the chart is loading another symbol or interval. */
function offer(item: Bar | Values): void {
  if (shown !== `${symbol} ${interval}`) return;
  if ("values" in item) {
    chart.takeValues(item);
    return;
  }
  chart.take(item);
  if (!streamed && item.state !== "forming") askLater();
  element("message").textContent = "";
}

/** Request the values of the newest bars, after a delay in which all bars that close together are stored. */
function askLater(): void {
  clearTimeout(asking);
  asking = window.setTimeout(() => {
    const wanted = shown;
    void history.computed(ASKED, symbol, interval, 5).then(
      (rows) => {
        if (wanted === shown) for (const row of rows) chart.takeValues(row);
      },
      () => undefined, // the next bar repeats the request
    );
  }, 2_000);
}

/** Show stored data, then subscribe to the stream from the position of that read. */
async function show(): Promise<void> {
  const [wanted, how] = [`${symbol} ${interval}`, adjust];
  shown = "";
  element("title").textContent = symbol;
  element("last").textContent = formatPrice(watchlist.quotes.get(symbol)?.last ?? null);
  location.hash = encodeURIComponent(symbol);
  for (const [name, row] of rows) row.ariaSelected = String(name === symbol);
  let message = "";
  let since: unknown;
  try {
    const [name, step] = [symbol, interval];
    const { bars, position } = await history.bars(name, step, adjust);
    let values = await history.values(name, step);
    streamed = values.length > 0 || !bars.length;
    if (!streamed) values = await history.computed(ASKED, name, step);
    if (wanted !== `${symbol} ${interval}` || how !== adjust) return;
    since = position;
    chart.show(bars, values);
    if (!bars.length) message = `No ${interval} bars of ${symbol} yet.`;
  } catch (error) {
    if (wanted !== `${symbol} ${interval}` || how !== adjust) return;
    chart.show([], []);
    message = error instanceof Error ? error.message : String(error);
  }
  element("message").textContent = message;
  element("chart").dataset.shown = shown = wanted;
  stream.subscribe([{ action: "subscribe", symbols: [symbol], channels: ["ticks", "bars", "analytics"], since }, EVERYTHING]);
}

function addRow(name: string): HTMLTableRowElement {
  const row = element<HTMLTableSectionElement>("symbols").insertRow();
  row.dataset.symbol = name;
  row.tabIndex = 0;
  for (let cell = 0; cell < 4; cell += 1) row.insertCell();
  row.cells[0]!.textContent = name;
  row.onclick = () => select(name);
  row.onkeydown = (event) => {
    if (event.key === "Enter") select(name);
  };
  rows.set(name, row);
  sortRows();
  filterRows();
  if (!symbol) select(name);
  return row;
}

function sortRows(): void {
  const body = element("symbols");
  for (const name of [...rows.keys()].sort()) body.append(rows.get(name)!);
}

function filterRows(): void {
  const text = element<HTMLInputElement>("filter").value.trim().toUpperCase();
  for (const [name, row] of rows) row.hidden = !name.includes(text);
}

function select(name: string): void {
  symbol = name;
  void show();
}

/** Draw all changes since the last call, once per refresh of the screen. */
function draw(): void {
  for (const name of watchlist.touched) {
    const quote = watchlist.quotes.get(name)!;
    const row = rows.get(name) ?? addRow(name);
    const change = dayChange(quote);
    row.cells[1]!.textContent = formatPrice(quote.last);
    row.cells[2]!.textContent = change === null ? "–" : `${change >= 0 ? "+" : ""}${(change * 100).toFixed(2)} %`;
    row.cells[2]!.className = change === null ? "" : change >= 0 ? "up" : "down";
    row.cells[3]!.textContent = formatVolume(quote.volume);
    if (name === symbol) element("last").textContent = formatPrice(quote.last);
  }
  watchlist.touched.clear();
  requestAnimationFrame(draw);
}

for (const name of INTERVALS) {
  const button = document.createElement("button");
  button.textContent = name;
  button.ariaPressed = String(name === interval);
  button.onclick = () => {
    interval = name;
    for (const other of element("intervals").children) other.ariaPressed = String(other === button);
    void show();
  };
  element("intervals").append(button);
}
for (const name of history.ADJUSTMENTS) {
  const option = new Option(name, name, name === adjust, name === adjust);
  element<HTMLSelectElement>("adjust").append(option);
}
element("adjust").onchange = () => {
  adjust = element<HTMLSelectElement>("adjust").value as history.Adjustment;
  void show();
};
for (const { label, color } of LINES) {
  const entry = document.createElement("span");
  entry.style.color = color;
  entry.textContent = `${label}  `;
  element("legend").append(entry);
}
element("filter").oninput = filterRows;

async function watchHealth(): Promise<void> {
  const badge = element("health");
  const state = await history.health();
  badge.dataset.state = state === "lost" ? "failed" : state;
  badge.textContent = `health: ${state}`;
}
void watchHealth();
setInterval(() => void watchHealth(), 5_000);
setInterval(() => {
  element("rate").textContent = ticks ? `${ticks} ticks/s of ${symbol}` : "";
  ticks = 0;
}, 1_000);

/** List the symbols. If the plant requires an API key, prompt until a key is valid or the user cancels. */
async function begin(): Promise<void> {
  element<HTMLAnchorElement>("metrics").href = withKey("metrics");
  try {
    for (const name of await history.symbols()) if (!rows.has(name)) addRow(name);
  } catch (error) {
    element("message").textContent = error instanceof Error ? error.message : String(error);
    if (!(error instanceof history.NoKey)) return;
    const given = window.prompt("API key required. Enter the value of the setting api.key:");
    if (!given) return;
    setKey(given);
    element("message").textContent = "";
    await begin();
    stream.connectNow();
  }
}
window.onhashchange = () => {
  const named = readAddress();
  if (named && named !== symbol) select(named);
};
void begin();
requestAnimationFrame(draw);
