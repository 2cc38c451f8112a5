// The service worker that gives this page the two headers which threads need. It takes itself away where another page
// has taken this one's place.
"use strict";

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  if (new URL(event.request.url).origin === location.origin) event.respondWith(answered(event.request));
});

async function answered(request) {
  const answer = await fetch(request);
  const page = request.mode === "navigate" && answer.ok && /html/.test(answer.headers.get("content-type"));
  if (page && !(await answer.clone().text()).includes('content="edgekit web"')) {
    await self.registration.unregister();
    return answer;
  }
  if (answer.type === "opaqueredirect" || !answer.status) return answer;
  const headers = new Headers(answer.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  const { status, statusText } = answer;
  return new Response([204, 205, 304].includes(status) ? null : answer.body, { status, statusText, headers });
}
