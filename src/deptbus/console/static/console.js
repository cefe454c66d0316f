// Keeps an open page true: hears from the server that something changed, asks for the same page again,
// and takes over only what differs, so that focus, ticks and what is being typed stay.
"use strict";

const PAUSE_MS = 1500; // between two takings-over of the whole page
const DOTS_AT_MOST = 60;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

// --- taking over ------------------------------------------------------------------------------

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.id : "";
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && key(a) === key(b);
}

function takeOver(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (old.hasAttribute("data-keep")) return;
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && name !== "class") old.removeAttribute(name);
  if (old.nodeName === "INPUT") return; // what was typed or ticked is the person's
  let here = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const known = key(wanted) && old.querySelector(`:scope > #${CSS.escape(key(wanted))}`);
    if (known && known !== here) old.insertBefore(known, here);
    const match = known || (here && alike(here, wanted) ? here : null);
    if (match) {
      takeOver(match, wanted);
      here = match.nextSibling;
    } else {
      old.insertBefore(document.importNode(wanted, true), here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

let asking = false;
let askedAt = 0;
let askAgain = false;

async function renew() {
  if (document.hidden || asking) {
    askAgain = true;
    return;
  }
  const rest = askedAt + PAUSE_MS - Date.now();
  if (rest > 0) {
    if (!askAgain) setTimeout(renew, rest);
    askAgain = true;
    return;
  }
  asking = true;
  askAgain = false;
  askedAt = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.redirected && new URL(answer.url).pathname === "/login") return leave();
    if (answer.ok) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const news = fresh.querySelectorAll("[data-live-part]");
      document.querySelectorAll("[data-live-part]").forEach((part) => {
        const same = [...news].find((one) => one.id === part.id);
        if (same) takeOver(part, same);
      });
      tellAgo();
    }
  } catch {
    lost(); // the stream of events says when it is back
  } finally {
    asking = false;
    if (askAgain) {
      askAgain = false;
      renew();
    }
  }
}

// --- the stream -------------------------------------------------------------------------------

const sign = document.getElementById("live");

function tell(isLive) {
  if (!sign) return;
  sign.dataset.state = isLive ? "on" : "off";
  sign.textContent = isLive ? sign.dataset.on : sign.dataset.off;
}

function lost() {
  tell(false);
}

function leave() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}

function follow() {
  // The answer to a form cannot be asked for again; a note's page reads the bus for itself alone.
  const isAnswer = ["refused", "error", "case", "plan"].includes(document.body.dataset.page)
    || document.getElementById("found");
  const events = new EventSource("/events");
  events.addEventListener("open", () => tell(true));
  events.addEventListener("error", () => {
    lost();
    // It tries again by itself, unless it was refused: then the session is over.
    if (events.readyState === EventSource.CLOSED) setTimeout(renew, PAUSE_MS);
  });
  events.addEventListener("changed", () => {
    tell(true);
    if (!isAnswer) renew();
  });
  events.addEventListener("flows", (event) => JSON.parse(event.data).forEach(move));
  events.addEventListener("ended", () => {
    events.close();
    leave();
  });
  document.addEventListener("visibilitychange", () => !document.hidden && !isAnswer && renew());
}

// --- what flows -------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
let dots = 0;

function move(flow, tries = 0) {
  const layer = document.getElementById("dots");
  if (!layer || document.hidden) return;
  const name = `edge-${flow.source}-${flow.recipient}-${flow.direction}`;
  const path = document.getElementById(name);
  if (!path) {
    // The line itself comes with the next taking-over.
    if (tries < 20) setTimeout(() => move(flow, tries + 1), 250);
    return;
  }
  const node = document.getElementById(`node-${flow.recipient}`);
  path.classList.add("now");
  setTimeout(() => path.classList.remove("now"), 1600);
  if (calm.matches || dots >= DOTS_AT_MOST) {
    if (node) glow(node);
    return;
  }
  dots += 1;
  const dot = document.createElementNS(SVG, "circle");
  dot.setAttribute("r", String(Math.min(6, 3 + Math.log10(flow.count))));
  dot.setAttribute("class", `dot ${flow.direction}`);
  layer.append(dot);
  const length = path.getTotalLength();
  const lasts = 900 + Math.min(900, length * 1.5);
  let began = null;
  function step(now) {
    began ??= now;
    const part = Math.min(1, (now - began) / lasts);
    const eased = part < 0.5 ? 2 * part * part : 1 - (2 - 2 * part) ** 2 / 2;
    const point = path.getPointAtLength(eased * length);
    dot.setAttribute("cx", point.x);
    dot.setAttribute("cy", point.y);
    if (part < 1) return requestAnimationFrame(step);
    dot.remove();
    dots -= 1;
    if (node) glow(node);
  }
  requestAnimationFrame(step);
}

function glow(node) {
  node.classList.add("got");
  setTimeout(() => node.classList.remove("got"), 900);
}

// --- how long ago -----------------------------------------------------------------------------

const relative = new Intl.RelativeTimeFormat(document.documentElement.lang, { style: "short" });
const SIZES = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

function tellAgo() {
  for (const time of document.querySelectorAll("time[datetime]")) {
    const seconds = (new Date(time.dateTime) - Date.now()) / 1000;
    if (Number.isNaN(seconds)) continue;
    const [unit, size] = SIZES.find(([, s]) => Math.abs(seconds) >= s) ?? SIZES[3];
    time.title = relative.format(Math.round(seconds / size), unit);
  }
}

tellAgo();
if (document.body.dataset.live === "yes") follow();
