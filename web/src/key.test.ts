import { expect, it } from "vitest";
import { parse } from "./key";

it("reads a symbol or a key from the address", () => {
  expect(parse("")).toEqual({ key: null, symbol: "" });
  expect(parse("#EUR%2FUSD")).toEqual({ key: null, symbol: "EUR/USD" });
  expect(parse("#apikey=a%26b")).toEqual({ key: "a&b", symbol: "" });
});

it("keeps a text that is not percent-encoded", () => {
  expect(parse("#%")).toEqual({ key: null, symbol: "%" });
  expect(parse("#50%25%E0%A4")).toEqual({ key: null, symbol: "50%25%E0%A4" });
  expect(parse("#apikey=100%")).toEqual({ key: "100%", symbol: "" });
});
