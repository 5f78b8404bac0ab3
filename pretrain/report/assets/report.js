// Keeps the reader's place when a running report reloads itself.
try {
  const key = "looksay-scroll";
  const saved = sessionStorage.getItem(key);
  if (saved) window.scrollTo(0, Number(saved));
  addEventListener("beforeunload", () => sessionStorage.setItem(key, String(window.scrollY)));
} catch (error) { console.info("scroll position is not kept", error); }
