// Keeps a page up to date. When the server has a new snapshot, the page is fetched again, and only what
// differs is changed in place: focus, scroll position, open details and typed text stay. Without this
// script, every page works by reloading it.
"use strict";

const main = document.querySelector("main");
const word = document.getElementById("live-state");
const button = document.getElementById("updates");
// The page is updated after so many snapshots; costly pages are updated less often.
const every = Number(main.dataset.every || 0);
let stopped = false;
let busy = false;
let snapshots = 0;
let source = null;
let again = 0;

function say(text, kind) {
  word.textContent = text;
  word.className = "dot " + kind;
}

// Makes `old` equal to `fresh`. Form fields, and what is marked as `data-keep`, stay as they are.
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || "keep" in (old.dataset || {})) {
    if (!("keep" in (old.dataset || {}))) old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (["INPUT", "TEXTAREA", "SELECT"].includes(old.nodeName)) return;
  morphChildren(old, fresh);
}

// Not `node.id`: in a form, that is the field named `id`, if there is one.
function idOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("id") : null;
}

// Children with an id are matched by it, others by their position.
function morphChildren(old, fresh) {
  const wanted = new Set([...fresh.children].map(idOf).filter(Boolean));
  for (const child of [...old.children]) {
    if (idOf(child) && !wanted.has(idOf(child))) child.remove();
  }
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const id = idOf(child);
    const same = id && [...old.children].find((candidate) => idOf(candidate) === id);
    if (same && same !== at) {
      old.insertBefore(same, at);
      morph(same, child);
    } else if (at && (same || (!id && !idOf(at)))) {
      const next = at.nextSibling;
      morph(at, child);
      at = next;
    } else {
      old.insertBefore(document.importNode(child, true), at);
    }
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

async function update() {
  // One request at a time: a slow server is not asked again before it has answered.
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (stopped) return;
    for (const part of document.querySelectorAll("[data-live]")) {
      const match = fresh.getElementById(part.id);
      if (match) morph(part, match);
    }
    say("Live", "on");
  } catch {
    if (!stopped) say("No answer, trying again", "off");
  } finally {
    busy = false;
  }
}

function listen() {
  snapshots = 0;
  source = new EventSource("/live");
  source.onmessage = () => {
    if (snapshots++ % every === 0) update();
  };
  source.onerror = () => {
    say("Not connected", "off");
    // After an answer that is not a stream, the browser does not connect again by itself.
    if (source.readyState !== EventSource.CLOSED) return;
    clearTimeout(again);
    again = setTimeout(() => {
      if (!stopped && !document.hidden && source.readyState === EventSource.CLOSED) listen();
    }, 5000);
  };
  source.onopen = () => say("Live", "on");
}

function toggle() {
  stopped = !stopped;
  button.textContent = stopped ? "Resume updates" : "Stop updates";
  button.setAttribute("aria-pressed", String(stopped));
  if (stopped) {
    source.close();
    say("Not updating", "");
  } else {
    listen();
  }
}

if (every > 0) {
  button.hidden = false;
  button.addEventListener("click", toggle);
  // Streams of background tabs would use up the few connections of the browser.
  document.addEventListener("visibilitychange", () => {
    source.close();
    if (!document.hidden && !stopped) listen();
  });
  listen();
}
