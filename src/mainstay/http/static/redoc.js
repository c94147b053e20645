// Starts Redoc on the document that the page names.
window.addEventListener("load", () => {
  const place = document.getElementById("redoc");
  window.Redoc.init(place.dataset.document, { disableGoogleFont: true, hideLoading: true }, place);
});
