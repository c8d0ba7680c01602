// A screen without a keyboard opens /login#token=WORD: what stands behind # stays in the browser, and in no log.
function look() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  document.getElementById("wrong").hidden = location.hash !== "#wrong";
  const token = fragment.get("token");
  if (token) {
    history.replaceState(null, "", location.pathname);
    document.getElementById("token").value = token;
    document.getElementById("form").submit();
  }
}

addEventListener("hashchange", look);
look();
