/** The API key, if the plant wants one: given once as `#apikey=KEY`, kept for as long as the tab is open. */

const NAME = "apikey";

/** The key and the symbol that a fragment like `#apikey=KEY` or `#AAPL` names. */
export function parse(hash: string): { key: string | null; symbol: string } {
  const text = hash.replace(/^#/, "");
  if (!text.startsWith(`${NAME}=`)) return { key: null, symbol: decodeURIComponent(text) };
  return { key: decodeURIComponent(text.slice(NAME.length + 1)), symbol: "" };
}

/** The key in use, or "". */
export function key(): string {
  return sessionStorage.getItem(NAME) ?? "";
}

/** Use this key from now on. */
export function setKey(value: string): void {
  sessionStorage.setItem(NAME, value);
}

/** Take the key out of the page's address, where it would be shown, and return the symbol that the address names. */
export function readAddress(): string {
  const { key: given, symbol } = parse(location.hash);
  if (given !== null) {
    setKey(given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return symbol;
}

/** A path with the key as a parameter, for where headers cannot be set: links and WebSockets. */
export function withKey(path: string): string {
  return key() ? `${path}${path.includes("?") ? "&" : "?"}${NAME}=${encodeURIComponent(key())}` : path;
}
