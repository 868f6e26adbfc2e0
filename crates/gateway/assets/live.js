// Keeps a page up to date. The server says when there is news; then the page is fetched once more,
// and what differs is changed in place, so that focus, scroll position, open details and what
// somebody has typed stay as they are. Without this script every page works by reloading it.
"use strict";

const main = document.querySelector("main");
const word = document.getElementById("live-state");
const button = document.getElementById("pause");
// How many pieces of news make one update: pages that are costly to make ask for more.
const every = Number(main.dataset.every || 0);
let paused = false;
let busy = false;
let news = 0;
let source = null;
let again = 0;

function say(text, kind) {
  word.textContent = text;
  word.className = "dot " + kind;
}

// Makes `old` like `fresh`. What a person is at work with is left alone.
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

// Not `node.id`: in a form that is the field of this name, if there is one.
function idOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("id") : null;
}

// Children with an id are matched by it, others by their place.
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
  // One at a time: a slow server is not asked again before it has answered.
  if (busy) return;
  busy = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (paused) return;
    for (const part of document.querySelectorAll("[data-live]")) {
      const match = fresh.getElementById(part.id);
      if (match) morph(part, match);
    }
    say("Live", "on");
  } catch {
    if (!paused) say("No answer, trying again", "off");
  } finally {
    busy = false;
  }
}

function listen() {
  news = 0;
  source = new EventSource("/live");
  source.onmessage = () => {
    if (news++ % every === 0) update();
  };
  source.onerror = () => {
    say("Not connected", "off");
    // After an answer that is no stream, the browser does not try again by itself.
    if (source.readyState !== EventSource.CLOSED) return;
    clearTimeout(again);
    again = setTimeout(() => {
      if (!paused && !document.hidden && source.readyState === EventSource.CLOSED) listen();
    }, 5000);
  };
  source.onopen = () => say("Live", "on");
}

function toggle() {
  paused = !paused;
  button.textContent = paused ? "Resume" : "Pause";
  button.setAttribute("aria-pressed", String(paused));
  if (paused) {
    source.close();
    say("Paused", "");
  } else {
    listen();
  }
}

if (every > 0) {
  button.hidden = false;
  button.addEventListener("click", toggle);
  // Streams that stay open in the background would use up the browser's few connections.
  document.addEventListener("visibilitychange", () => {
    source.close();
    if (!document.hidden && !paused) listen();
  });
  listen();
}
