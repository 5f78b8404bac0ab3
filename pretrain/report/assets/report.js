// A running report reloads itself and keeps the reader's place: scroll, open parts, chosen pictures.
// Everything on the page works without this script.
const refresh = Number(document.body.dataset.refresh || 0);
const key = "looksay-place";
const controls = () => [...document.querySelectorAll("details, .swap input")];
try {
  const place = JSON.parse(sessionStorage.getItem(key) || "null");
  if (place && performance.getEntriesByType("navigation")[0]?.type === "reload") {
    controls().forEach((one, n) => {
      if (one.tagName === "DETAILS") one.open = Boolean(place.state[n]);
      else one.checked = place.state[n] ?? one.checked;
    });
    window.scrollTo(0, place.scroll);
  }
  addEventListener("pagehide", () => {
    const state = controls().map((one) => (one.tagName === "DETAILS" ? one.open : one.checked));
    sessionStorage.setItem(key, JSON.stringify({ scroll: window.scrollY, state }));
  });
} catch (error) {
  console.info("the place is not kept", error);
}
if (refresh) {
  const age = Date.now() / 1000 - Number(document.body.dataset.written);
  if (age > 20 * refresh) {
    document.querySelector(".when").append(" (not refreshed since: the run seems to have stopped)");
  } else {
    setInterval(() => {
      const selecting = String(getSelection());
      if (!document.hidden && !selecting) location.reload();
    }, 1000 * refresh);
  }
}
