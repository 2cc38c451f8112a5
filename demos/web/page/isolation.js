// Threads need a page that is isolated from other origins by two headers. Where the host sends none, a service worker
// (isolate.js) adds them, after one reload; where that cannot be, the page works on one thread.

const TRIED = "edgekit-isolation-tried";
const PATIENCE_MS = 3000;

// Whether the page is about to be loaded again.
export async function isolating() {
  const cores = navigator.hardwareConcurrency || 1;
  if (self.crossOriginIsolated || cores < 2 || !window.isSecureContext || !navigator.serviceWorker) return false;
  try {
    if (sessionStorage.getItem(TRIED)) return false;
    sessionStorage.setItem(TRIED, "yes");
    navigator.serviceWorker.register("isolate.js").catch(() => {});  // where that is forbidden, `ready` never comes
    const there = navigator.serviceWorker.ready.then(() => true);
    if (!(await Promise.race([there, new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]))) return false;
    location.reload();
    return true;
  } catch {
    return false;
  }
}
