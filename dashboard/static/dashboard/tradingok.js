/** TradingOK's live market data for any front end: connects, comes back by itself, subscribes again.
 *    const feed = connect({ url: "wss://host/ws/market/", protocols: async () => ["tradingok.v1", `ticket.${await newTicket()}`] });
 *    feed.on("market:tick", ([key, seq, quote]) => …);      // always the whole quote, its levels included
 *    feed.subscribe(["NSE_INDEX|Nifty 50", "id:5"], "full");
 *    feed.on("market:ohlc", ({ key, interval, snapshot, candles, candle, state, revision }) => …); // a snapshot at first and after each reconnect
 *    feed.subscribeChannels(["ohlc:5m:id:5"], 300);         // the last 300 candles, then each as it changes
 *    feed.on("list", ({ instruments, channels }) => …).list(); // what the server has this connection follow; asks nobody while there is none
 *  Other events: the protocol's pushes ("gap", "market:chain" of the channel "chain:NIFTY:@w0:atm10", …) and replies under their own names, and "connection": {state: "connecting" | "waiting" | "closed", code}. */
const OPTION = { instruments: "mode", channels: "candles" }, FULL = 4104, FULL_MS = 30_000; // so long a killed server's connections keep their places
export function connect({ url = `${location.origin.replace(/^http/, "ws")}/ws/market/`, protocols = [] } = {}) {
  const wanted = { instruments: new Map(), channels: new Map() }, quotes = new Map(), listeners = new Map(); // wanted: items by their option
  let socket, silence, id = 0, failures = 0, ready = false, ended = false, bye, timer = setTimeout(open);
  const emit = (event, value) => listeners.get(event)?.forEach((listener) => listener(value));
  const ask = (op, kind, items, option) => { // at most 500 items a command
    for (let at = 0; ready && at < items.length; at += 500) socket.send(JSON.stringify({ id: ++id, op, [kind]: items.slice(at, at + 500), [OPTION[kind]]: option }));
  };
  const listen = () => { clearTimeout(silence); silence = setTimeout(() => { socket.close(); closed(1006); }, 40_000); }; // heartbeats come each 15 s
  function receive(message) {
    if (message.event === "hello") {
      ready = true; quotes.clear();
      for (const kind in wanted) wanted[kind].forEach((items, option) => ask("subscribe", kind, [...items], option));
    }
    if (message.event === "bye") bye = message;
    if (["market:tick", "market:ohlc", "market:chain", "heartbeat"].includes(message.event)) failures = 0; // a greeting alone does not prove a good connection
    if (message.event !== "market:tick") return emit(message.event ?? message.op, message);
    for (const [key, seq, part] of message.ticks) emit("market:tick", [key, seq, quotes.set(key, { ...quotes.get(key), ...part }).get(key)]);
  }
  function closed(code) { // 4100–4199 but FULL, and a bye that says so, are final; the rest comes back after a growing, jittered wait
    clearTimeout(silence); ready = false; if (socket) socket.onmessage = socket.onclose = null;
    const final = ended || bye?.reconnect === false || (code >= 4100 && code <= 4199 && code !== FULL);
    const wait = (code === FULL ? FULL_MS : bye?.after_ms ?? Math.min(500 * 2 ** failures++, 10_000)) * (1 + Math.random() / 2);
    if (!final) timer = setTimeout(open, wait);
    emit("connection", { state: final ? "closed" : "waiting", code, wait });
  }
  async function open() {
    bye = undefined; emit("connection", { state: "connecting" });
    try { socket = new WebSocket(url, typeof protocols === "function" ? await protocols() : protocols); } catch { return closed(1006); }
    listen(); socket.onclose = ({ code }) => closed(code); socket.onmessage = ({ data }) => { listen(); receive(JSON.parse(data)); };
  }
  const forget = (kind, items) => { items.forEach((item) => quotes.delete(item)); wanted[kind].forEach((set) => items.forEach((item) => set.delete(item))); };
  const follow = (kind, items, option) => { forget(kind, items); wanted[kind].set(option, new Set([...(wanted[kind].get(option) ?? []), ...items])); ask("subscribe", kind, items, option); };
  const leave = (kind, items) => { forget(kind, items); ask("unsubscribe", kind, items); };
  return {
    on(event, listener) { listeners.set(event, [...(listeners.get(event) ?? []), listener]); return this; },
    subscribe(items, mode = "full") { follow("instruments", items, mode); return this; },
    unsubscribe(items) { leave("instruments", items); return this; },
    subscribeChannels(names, candles) { follow("channels", names, candles); return this; },
    unsubscribeChannels(names) { leave("channels", names); return this; },
    list() { if (ready) socket.send(JSON.stringify({ id: ++id, op: "list" })); return this; },
    close() { ended = true; clearTimeout(timer); socket?.close(); },
  };
}
