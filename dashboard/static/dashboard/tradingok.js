/** TradingOK's live market data for any front end: connects, comes back by itself, subscribes again.
 *
 *    const feed = connect({ url: "wss://host/ws/market/", protocols: async () => ["tradingok.v1", `ticket.${await newTicket()}`] });
 *    feed.on("market:tick", ([key, seq, quote]) => …);      // always the whole quote, its levels included
 *    feed.subscribe(["NSE_INDEX|Nifty 50", "id:5"], "full");
 *
 *  Other events: the protocol's pushes and replies under their own names, and "connection": {state: "connecting" | "waiting" | "closed", code}. */
export function connect({ url = `${location.origin.replace(/^http/, "ws")}/ws/market/`, protocols = [] } = {}) {
  const wanted = new Map(), quotes = new Map(), listeners = new Map();
  let socket, silence, id = 0, failures = 0, ready = false, ended = false, bye, timer = setTimeout(open);
  const emit = (event, value) => listeners.get(event)?.forEach((listener) => listener(value));
  const ask = (op, items, mode) => { // at most 500 items a command
    for (let at = 0; ready && at < items.length; at += 500) socket.send(JSON.stringify({ id: ++id, op, instruments: items.slice(at, at + 500), mode }));
  };
  const listen = () => { clearTimeout(silence); silence = setTimeout(() => { socket.close(); closed(1006); }, 40_000); }; // heartbeats come each 15 s
  function receive(message) {
    if (message.event === "hello") { ready = true; quotes.clear(); wanted.forEach((items, mode) => ask("subscribe", [...items], mode)); }
    if (message.event === "bye") bye = message;
    if (message.event === "market:tick" || message.event === "heartbeat") failures = 0; // a greeting alone does not prove a good connection
    if (message.event !== "market:tick") return emit(message.event ?? message.op, message);
    for (const [key, seq, part] of message.ticks) emit("market:tick", [key, seq, quotes.set(key, { ...quotes.get(key), ...part }).get(key)]);
  }
  function closed(code) { // 4100–4199, and a bye that says so, are final; the rest comes back after a growing, jittered wait
    clearTimeout(silence); ready = false; if (socket) socket.onmessage = socket.onclose = null;
    const final = ended || bye?.reconnect === false || (code >= 4100 && code <= 4199);
    const wait = (bye?.after_ms ?? Math.min(500 * 2 ** failures++, 10_000)) * (1 + Math.random() / 2);
    if (!final) timer = setTimeout(open, wait);
    emit("connection", { state: final ? "closed" : "waiting", code, wait });
  }
  async function open() {
    bye = undefined; emit("connection", { state: "connecting" });
    try { socket = new WebSocket(url, typeof protocols === "function" ? await protocols() : protocols); } catch { return closed(1006); }
    listen(); socket.onclose = ({ code }) => closed(code); socket.onmessage = ({ data }) => { listen(); receive(JSON.parse(data)); };
  }
  const forget = (items) => { items.forEach((item) => quotes.delete(item)); wanted.forEach((set) => items.forEach((item) => set.delete(item))); };
  return {
    on(event, listener) { listeners.set(event, [...(listeners.get(event) ?? []), listener]); return this; },
    subscribe(items, mode = "full") { forget(items); wanted.set(mode, new Set([...(wanted.get(mode) ?? []), ...items])); ask("subscribe", items, mode); return this; },
    unsubscribe(items) { forget(items); ask("unsubscribe", items); return this; },
    close() { ended = true; clearTimeout(timer); socket?.close(); },
  };
}
