import { expect, it } from "vitest";
import { parse } from "./key";

it("reads a symbol or a key from the address", () => {
  expect(parse("")).toEqual({ key: null, symbol: "" });
  expect(parse("#EUR%2FUSD")).toEqual({ key: null, symbol: "EUR/USD" });
  expect(parse("#apikey=a%26b")).toEqual({ key: "a&b", symbol: "" });
});
