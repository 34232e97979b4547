Labels.begin();
document.querySelectorAll("[data-criterion]").forEach(Labels.attach);
