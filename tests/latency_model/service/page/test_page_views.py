"""What the page shows and does, in a real browser."""

import json
import re

import pytest
from page_things import EVIL, FAST, SLOW, onnx_model, unknown_model

CONV = "1x32x24x24 ->72 k3 s1 p1 g1 conv+relu fp32 nchw"
UNKNOWN = "1x32x25x25 ->72 k3 s1 p1 g1 conv+relu fp32 nchw"


def model_file(data=None, name="net.onnx"):
    return {
        "name": name, "mimeType": "application/octet-stream", "buffer": onnx_model() if data is None else data
    }  # fmt: skip


def estimate(page, service, data=None, name="net.onnx"):
    page.goto(f"{service.url}/#model")
    page.wait_for_selector("#model-device option", state="attached")
    page.set_input_files("#model-file", files=[model_file(data, name)])


def staircase(page, service, environments=(FAST,), config=CONV, axis="out"):
    keys = "".join(f"&environment={one.key}" for one in environments)
    page.goto(f"{service.url}/#staircase?config={config.replace('+', '%2B')}&axis={axis}{keys}")


def drawn(page):
    page.wait_for_selector("#staircase-chart .main-svg")
    return page.evaluate("document.getElementById('staircase-chart').data")


def text_of(page, selector):
    return re.sub(r"\s+", " ", page.inner_text(selector))


def test_devices_are_listed(page, service):
    page.goto(service.url)
    page.wait_for_selector("#devices-result td")
    found = text_of(page, "#devices-result")
    assert "2 environments" in found and "NVIDIA H100 80GB HBM3" in found and "964" in found
    assert "tensorrt 10.3" in found and "CUDA 12.6" in found and "builds=3" in found
    assert EVIL in found  # as text: the fixture sees to it that it did not run
    assert page.title() == "Devices · Gharial"
    page.click("text=staircases >> nth=0")
    assert [trace["x"] for trace in drawn(page)]


def test_a_table_can_be_downloaded(page, service):
    page.goto(service.url)
    page.wait_for_selector("#devices-result td")
    with page.expect_download() as waiting:
        page.click("a[aria-label^='csv of NVIDIA']")
    assert waiting.value.path().read_bytes().count(b"\n") == 965


def test_one_measured_site_is_shown_with_no_other_step(page, service):
    page.goto(f"{service.url}/#staircase")
    drawn(page)
    assert page.input_value("#config") == CONV
    assert "efficient output counts are 40, 48, 56, 64, 72" in page.inner_text("#staircase-summary")


def test_two_devices_are_compared_in_one_chart_and_one_table(page, service):
    staircase(page, service, (FAST, SLOW))
    data = drawn(page)
    with service.client() as client:
        for place, one in enumerate((FAST, SLOW)):
            query = {"environment": one.key, "config": CONV}
            known = client.get("/v1/staircase", params=query).json()
            envelope, measured, marks = data[3 * place : 3 * place + 3]
            assert measured["x"] == known["counts"] and measured["y"] == known["latency_us"]
            assert envelope["y"] == known["envelope_us"] and marks["x"] == known["efficient"]
    assert len({trace["line"]["color"] for trace in data[1::3]}) == 2
    assert len({(t["line"]["dash"], t["marker"]["symbol"]) for t in data[1::3]}) == 2
    assert page.locator("#staircase-table tbody tr").count() == 33
    row = text_of(page, "#staircase-table tbody tr:nth-child(5)")
    assert "44" in row and "efficient" in row and "33.2 µs" in row and "178 µs" in row
    assert page.locator("#staircase-legend").inner_text().count("Orin") == 1
    assert EVIL in page.inner_text("#staircase-legend")
    # Nothing from outside is in the chart, whose texts may be marked up.
    assert EVIL not in page.evaluate("JSON.stringify(document.getElementById('staircase-chart').data)")


def test_the_shape_is_set_by_its_parts_and_by_text(page, service, wait):
    staircase(page, service)
    drawn(page)
    page.click("#config-fields summary")
    page.fill("#part-inputs", "16")
    assert page.input_value("#config") == CONV.replace("1x32x", "1x16x")
    page.check("input[name=axis][value=in]")
    page.click("text=Show the staircase")
    wait(page, "document.getElementById('staircase-chart').data[1].x[0] === 5")
    assert "axis=in" in page.url
    page.fill("#config", CONV.replace("k3 s1 p1 g1", "k5x3 s2 p2x1 d2 g4"))
    read = {
        name: page.input_value(f"#part-{name}")
        for name in ("kernel", "stride", "padding", "dilation", "groups")
    }
    assert read == {"kernel": "5x3", "stride": "2", "padding": "2x1", "dilation": "2", "groups": "4"}


def test_the_other_side_is_chosen_from_what_was_measured(page, service, wait):
    staircase(page, service)
    drawn(page)
    assert page.locator("#at option").count() == 29
    page.select_option("#at", "8")
    wait(page, "document.getElementById('staircase-chart').data[1].y[0] < 10")
    assert page.input_value("#config").startswith("1x8x24x24")


def test_sites_are_found_by_precision_and_batch(page, service, wait):
    page.goto(f"{service.url}/#staircase")
    drawn(page)
    assert (
        page.locator("#site option").all_inner_texts()[0].startswith("3x3 convolution, stride 1, input 24x24")
    )
    assert page.locator("#site-precision option").all_inner_texts() == ["any", "fp32"]
    page.select_option("#site-batch", "1")
    page.select_option("#site-precision", "fp32")
    wait(page, "document.getElementById('site-note').textContent === '1 site'")


def test_what_was_not_measured_is_said_and_can_be_asked_for(page, service):
    page.goto(service.url)
    page.click("#access summary")
    page.fill("#token", service.token)
    page.press("#token", "Enter")
    staircase(page, service, (SLOW,), UNKNOWN)
    page.wait_for_selector("#staircase-problem .problem")
    assert "was not measured" in page.inner_text("#staircase-problem")
    assert page.is_hidden("#staircase-result")
    page.click("text=Ask for it to be measured")
    page.wait_for_selector("#staircase-problem >> text=waits for a worker")
    with service.client() as client:
        job = client.get("/v1/jobs").json()[0]
        assert job["wants"]["environment"] == SLOW.key and job["total"] == 1
        client.post(f"/v1/jobs/{job['id']}/cancel")


@pytest.mark.parametrize("text", ["nonsense", EVIL, "1x3x4x4 ->0 k3 s1 p1 g1 conv fp32 nchw"])
def test_what_is_no_convolution_is_said(page, service, text):
    staircase(page, service)
    drawn(page)
    page.fill("#config", text)
    page.click("text=Show the staircase")
    page.wait_for_selector("#staircase-problem .problem")
    said = page.inner_text("#staircase-problem p")
    assert said.endswith(".") and "status" not in said


def test_a_model_is_estimated_by_layer(page, service):
    estimate(page, service)
    page.wait_for_selector("#model-result table")
    with service.client() as client:
        query = {"environment": FAST.key, "channels": True}
        known = client.post("/v1/estimate", params=query, content=onnx_model()).json()
    assert page.inner_text("#model-summary") == "net.onnx: 50.8 µs, between 40.7 \u2013 60.9 µs at 90 %."
    assert f"{known['latency_us']:.1f}" == "50.8" and f"{known['high_us']:.1f}" == "60.9"
    layers = page.locator("#model-result table").nth(1)
    assert layers.locator("tbody tr").count() == 2
    assert EVIL in layers.inner_text() and "85.8 %" in layers.inner_text()
    widths = layers.locator(".bar span").evaluate_all("bars => bars.map(bar => bar.style.width)")
    assert widths[0] == "100%" and 16 < float(widths[1].rstrip("%")) < 17
    assert page.is_hidden("#model-progress")


def test_what_aligned_counts_save_is_said(page, service):
    estimate(page, service)
    page.wait_for_selector("#model-result table")
    found = text_of(page, "#model-result")
    # 29 -> 60 channels run as 32 -> 64 in 34.0 instead of 43.6, with 56 outputs in 30.0, with 24 inputs in 26.0.
    first = text_of(page, "#model-result table >> nth=0 >> tbody tr:first-child")
    assert "/body/conv2/Conv" in first and "padded to 29 → 64 saves 9.60 µs, 22.0 %" in first
    assert "56 outputs saves 13.6 µs" in first and "24 inputs saves 17.6 µs" in first
    assert "saves up to 10.8 µs" in found


def test_layers_are_shown_in_the_order_of_the_network_too(page, service):
    estimate(page, service)
    page.wait_for_selector("#model-result table")
    names = page.locator("#model-result table >> nth=1 >> tbody th")
    assert names.nth(0).inner_text().startswith("/body")
    page.click("text=In the order of the network")
    assert names.nth(0).inner_text().startswith("<img")


def test_a_file_is_dropped(page, service):
    page.goto(f"{service.url}/#model")
    page.wait_for_selector("#model-device option", state="attached")
    page.evaluate(
        """data => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(data)], "dropped.onnx"));
          const about = {dataTransfer: held, bubbles: true, cancelable: true};
          for (const name of ["dragover", "drop"])
            document.getElementById("drop").dispatchEvent(new DragEvent(name, about));
        }""",
        list(onnx_model()),
    )
    page.wait_for_selector("#model-summary >> text=dropped.onnx")


def test_progress_is_shown_while_sending_and_it_can_be_cancelled(page, service, wait):
    page.goto(f"{service.url}/#model")
    page.wait_for_selector("#model-device option", state="attached")
    slow = page.context.new_cdp_session(page)
    slow.send("Network.enable")
    limits = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    slow.send("Network.emulateNetworkConditions", limits)
    page.set_input_files("#model-file", files=[model_file(bytes(4_000_000), "large.onnx")])
    wait(page, "document.getElementById('model-bar').value > 0")
    assert re.search(r"Sent [\d.]+ .B of 4\.00 MB", page.inner_text("#model-sent"))
    page.click("#model-cancel")
    page.wait_for_selector("#model-summary >> text=Cancelled.")
    assert page.is_hidden("#model-progress")
    slow.send("Network.emulateNetworkConditions", {**limits, "uploadThroughput": -1})


@pytest.mark.parametrize("data", [b"", b"no model", onnx_model()[:200]])
def test_a_file_that_is_no_model_is_said(page, service, data):
    estimate(page, service, data)
    page.wait_for_selector("#model-problem .problem")
    said = page.inner_text("#model-problem p")
    assert "ONNX" in said and said.endswith(".")
    assert page.is_hidden("#model-progress") and not page.inner_text("#model-result")


def test_a_model_that_was_not_measured_is_said_and_can_be_asked_for(page, service):
    estimate(page, service, unknown_model(), "<my> net.onnx")
    page.wait_for_selector("#model-problem .problem")
    assert "Ask for it to be measured" in page.inner_text("#model-problem")
    # Without a token asking is refused, in a sentence that leads to the field for one.
    page.click("text=Ask for it to be measured")
    page.click("text=Enter a token")
    assert page.evaluate("document.activeElement.id") == "token"
    page.keyboard.type(service.token)
    page.keyboard.press("Enter")
    page.click("text=Estimate again")
    page.click("text=Ask for it to be measured")
    page.wait_for_selector("#model-problem >> text=waits for a worker")
    with service.client() as client:
        job = client.get("/v1/jobs").json()[0]
        assert job["kind"] == "model" and job["wants"]["environment"] == FAST.key
        client.post(f"/v1/jobs/{job['id']}/cancel")
    page.click("text=See the jobs")
    page.wait_for_selector("#jobs-result >> text=model my-net")


def test_the_batch_of_the_query_is_used(page, service):
    estimate(page, service)
    page.wait_for_selector("#model-result table")
    page.fill("#model-batch", "7")
    page.click("text=Estimate again")
    page.wait_for_selector("#model-problem .problem")
    assert "7x" in page.inner_text("#model-problem")


def test_jobs_are_live(page, service, wait):
    page.goto(f"{service.url}/#jobs")
    wait(page, "document.getElementById('jobs-summary').textContent !== ''")
    with service.client() as client:
        body = {"configs": [UNKNOWN, UNKNOWN.replace("->72", "->64")], "wants": {"device": "XYZ9"}}
        job = client.post("/v1/jobs", json=body).json()
        named = {"name": "resnet", "wants": json.dumps({"device": EVIL})}
        kind = {"content-type": "application/octet-stream"}
        model = client.post("/v1/jobs", params=named, content=unknown_model(), headers=kind).json()
        line = page.locator("#jobs-result tr", has_text=job["id"][:8])
        line.wait_for()
        assert "2 convolutions" in line.inner_text() and "0 of 2" in line.inner_text()
        assert "waits" in line.inner_text() and "device XYZ9" in line.inner_text()
        other = page.locator("#jobs-result tr", has_text=model["id"][:8])
        other.wait_for()
        assert EVIL in other.inner_text() and "model resnet" in other.inner_text()
        client.post(f"/v1/jobs/{job['id']}/cancel")
        line.locator("text=cancelled").wait_for()
        assert line.locator("button").count() == 0
        page.select_option("#jobs-state", "cancelled")
        other.wait_for(state="detached")
        client.post(f"/v1/jobs/{model['id']}/cancel")
        other.wait_for()


def test_a_problem_that_goes_takes_no_focus_along(page, service, wait):
    page.goto(f"{service.url}/#jobs")
    wait(page, "document.getElementById('jobs-summary').textContent !== ''")
    page.evaluate(
        "document.getElementById('jobs-problem').append(Object.assign(document.createElement('button'), {id: 'old'}))"
    )
    page.focus("#old")
    wait(page, "document.getElementById('old') === null")
    assert page.evaluate("document.activeElement.id") == "jobs-title"


def test_updates_can_be_paused(page, service, watch, wait):
    page.goto(f"{service.url}/#jobs")
    wait(page, "document.getElementById('jobs-summary').textContent !== ''")
    page.click("#jobs-pause")
    assert page.get_attribute("#jobs-pause", "aria-pressed") == "true"
    before = len(watch.requests)
    page.wait_for_timeout(3000)
    assert len(watch.requests) == before
    page.click("nav a[href='#devices']")
    page.wait_for_selector("#devices-result td")


def test_a_private_service_asks_for_a_token_and_keeps_it_in_the_session(page, private_service):
    page.goto(private_service.url)
    page.wait_for_selector("#devices-result .problem")
    assert "needs a token" in page.inner_text("#devices-result")
    page.click("text=Enter a token")
    page.keyboard.type("ghl_" + "x" * 43)
    page.keyboard.press("Enter")
    page.wait_for_selector("#devices-result >> text=unknown, expired or revoked")
    page.click("#access summary")
    page.fill("#token", private_service.token)
    page.click("text=Use it")
    page.wait_for_selector("#devices-result td")
    assert private_service.token not in page.content() and private_service.token not in page.url
    assert page.evaluate("Object.values(sessionStorage)") == [private_service.token]
    assert page.evaluate("Object.values(localStorage)") == [] and page.context.cookies() == []
    for view in ("staircase", "jobs"):
        page.click(f"nav a[href='#{view}']")
    page.wait_for_selector("#jobs-summary >> text=There are no jobs.")
    estimate(page, private_service)
    page.wait_for_selector("#model-result table")
    page.click("#access summary")
    page.click("text=Forget it")
    assert page.evaluate("sessionStorage.length") == 0
    page.click("nav a[href='#devices']")
    page.wait_for_selector("#devices-result .problem")


def test_a_server_that_is_gone_is_said(new_page, service, watch):
    page = new_page()
    page.goto(service.url)
    page.wait_for_selector("#devices-result td")
    page.route("**/v1/jobs*", lambda route: route.abort())
    page.click("nav a[href='#jobs']")
    page.wait_for_selector("#jobs-problem .problem")
    assert "The server does not answer" in page.inner_text("#jobs-problem")
    watch.allowed.append("net::ERR_FAILED")
