/** The API key, if the plant requires one: passed once as `#apikey=KEY`, kept while the tab is open. */

const NAME = "apikey";

/** Decode a percent-encoded text. A text that is not percent-encoded, such as `%`, is returned unchanged. */
function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Parse a fragment like `#apikey=KEY` or `#AAPL` into a key (null: none) and a symbol ("": none). */
export function parse(hash: string): { key: string | null; symbol: string } {
  const text = hash.replace(/^#/, "");
  if (!text.startsWith(`${NAME}=`)) return { key: null, symbol: decode(text) };
  return { key: decode(text.slice(NAME.length + 1)), symbol: "" };
}

/** The key in use; "" if there is none. */
export function key(): string {
  return sessionStorage.getItem(NAME) ?? "";
}

/** Store the key for later requests. */
export function setKey(value: string): void {
  sessionStorage.setItem(NAME, value);
}

/** Remove the key from the page's address, so that it is not visible, and return the symbol in the address. */
export function readAddress(): string {
  const { key: given, symbol } = parse(location.hash);
  if (given !== null) {
    setKey(given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return symbol;
}

/** Return the path with the key as a parameter, for links and WebSockets, which cannot have headers. */
export function withKey(path: string): string {
  return key() ? `${path}${path.includes("?") ? "&" : "?"}${NAME}=${encodeURIComponent(key())}` : path;
}
