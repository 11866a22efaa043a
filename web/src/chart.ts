/** The chart: candles with volume, overlays on the price, and RSI in a separate pane. */

import {
  CandlestickSeries,
  HistogramSeries,
  type IChartApi,
  type ISeriesApi,
  LineSeries,
  type Time,
  createChart,
} from "lightweight-charts";
import { type Bar, Line, Series, digitsOf } from "./model";

const UP = "#2fb380";
const DOWN = "#e5565f";

/** Indicator columns to draw, with colour and pane (0: on the price). */
export const LINES: ReadonlyArray<{ column: string; label: string; color: string; pane: 0 | 1 }> = [
  { column: "sma_20", label: "SMA 20", color: "#e0b050", pane: 0 },
  { column: "ema_50", label: "EMA 50", color: "#9d7ff0", pane: 0 },
  { column: "bbands_20_2_upper", label: "BB upper", color: "#4b6a8f", pane: 0 },
  { column: "bbands_20_2_lower", label: "BB lower", color: "#4b6a8f", pane: 0 },
  { column: "rsi_14", label: "RSI 14", color: "#5aa2f0", pane: 1 },
];

/** Requests for these columns, for intervals whose indicators the stream does not compute. */
export const ASKED = ["sma?period=20", "ema?period=50", "bbands?period=20&deviations=2", "rsi?period=14"] as const;

/** Indicator values of one bar by column; null during the warm-up. */
export interface Values {
  time: number;
  symbol: string;
  interval: string;
  values: Record<string, number | null>;
}

export class PriceChart {
  readonly series = new Series();
  private readonly chart: IChartApi;
  private readonly candles: ISeriesApi<"Candlestick">;
  private readonly volume: ISeriesApi<"Histogram">;
  private readonly lines = new Map<string, ISeriesApi<"Line">>();
  private readonly values = new Map<string, Line>();

  private digits: number | null = null;

  constructor(element: HTMLElement) {
    this.chart = createChart(element, {
      autoSize: true,
      layout: { background: { color: "#10141b" }, textColor: "#8792a5", panes: { separatorColor: "#2a3342" } },
      grid: { vertLines: { color: "#1a212c" }, horzLines: { color: "#1a212c" } },
      timeScale: { timeVisible: true, secondsVisible: false, borderColor: "#2a3342", rightOffset: 4 },
      rightPriceScale: { borderColor: "#2a3342" },
      crosshair: { mode: 0 },
    });
    this.candles = this.chart.addSeries(CandlestickSeries, {
      upColor: UP, downColor: DOWN, wickUpColor: UP, wickDownColor: DOWN, borderVisible: false,
    });
    this.volume = this.chart.addSeries(HistogramSeries, {
      priceFormat: { type: "volume" }, priceScaleId: "volume", lastValueVisible: false, priceLineVisible: false,
    });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.85, bottom: 0 } });
    for (const { column, color, pane } of LINES) {
      const line = this.chart.addSeries(
        LineSeries,
        { color, lineWidth: 1, lastValueVisible: pane === 1, priceLineVisible: false, crosshairMarkerVisible: false },
        pane,
      );
      this.lines.set(column, line);
      this.values.set(column, new Line());
    }
    this.chart.panes()[1]?.setStretchFactor(0.25);
  }

  /** Replace the shown bars and values. */
  show(bars: Bar[], values: Values[]): void {
    this.series.set(bars);
    this.digits = null;
    this.drawAll();
    for (const name of this.lines.keys()) {
      const points = values.filter((row) => typeof row.values[name] === "number");
      this.values.get(name)!.set(points.map((row) => [row.time, row.values[name]!]));
      this.drawLine(name);
    }
    const count = this.series.bars.length;
    this.chart.timeScale().setVisibleLogicalRange({ from: count - 120, to: count + 4 });
  }

  /** Apply one bar of the stream: the newest, a revision of an older one, or a withdrawal. */
  take(bar: Bar): void {
    const change = this.series.take(bar);
    if (change.kind === "none") return;
    const prices = candle(bar);
    if (change.kind === "remove" || change.kind === "insert" || prices === null) {
      this.drawAll();
      return;
    }
    this.fitDigits();
    const historical = change.kind === "revise";
    this.candles.update(prices, historical);
    this.volume.update(column(bar), historical);
  }

  /** Apply the indicator values of one bar; all are null if the bar was withdrawn. */
  takeValues(row: Values): void {
    for (const [name, line] of this.lines) {
      const value = row.values[name];
      if (value === undefined) continue; // a forming bar has values of only some indicators
      const change = this.values.get(name)!.take(row.time, value);
      if (change === "redraw") this.drawLine(name);
      else if (change !== "none") line.update({ time: row.time as Time, value: value! }, change === "historical");
    }
  }

  private drawLine(name: string): void {
    const points = this.values.get(name)!.drawn;
    this.lines.get(name)!.setData(points.map(([time, value]) => ({ time: time as Time, value })));
  }

  /** Set the digits of the price axis to those that the newest close needs, once per chart. */
  private fitDigits(): void {
    const close = this.series.bars.at(-1)?.close;
    if (this.digits !== null || close == null) return;
    this.digits = digitsOf(close);
    const priceFormat = { type: "price" as const, precision: this.digits, minMove: 10 ** -this.digits };
    this.candles.applyOptions({ priceFormat });
    for (const { column, pane } of LINES) if (pane === 0) this.lines.get(column)!.applyOptions({ priceFormat });
  }

  private drawAll(): void {
    const drawn = this.series.bars.filter((bar) => candle(bar) !== null);
    this.fitDigits();
    this.candles.setData(drawn.map((bar) => candle(bar)!));
    this.volume.setData(drawn.map(column));
  }
}

function candle(bar: Bar) {
  if (bar.open === null || bar.high === null || bar.low === null || bar.close === null) return null;
  return { time: bar.time as Time, open: bar.open, high: bar.high, low: bar.low, close: bar.close };
}

function column(bar: Bar) {
  const rising = (bar.close ?? 0) >= (bar.open ?? 0);
  return { time: bar.time as Time, value: bar.volume, color: rising ? "#2fb38055" : "#e5565f55" };
}
