"""The doctor of the machine."""

import torch

from ornstein.tasks import doctor


def test_the_doctor_names_versions_devices_threads_compiler_and_disk(tmp_path):
    facts = doctor.examine(tmp_path)
    assert {"ornstein", "python", "torch", "devices", "threads", "compiler", "disk"} <= set(facts)
    assert "cpu" in facts["devices"]
    assert str(tmp_path) in facts["disk"]


def test_a_torchvision_of_another_torch_is_found(monkeypatch):
    versions = {"torch": "2.13.0", "torchvision": "0.28.0"}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "not installed"))
    assert not [a for a in doctor._advice(100.0) if "torchvision" in a]
    versions["torchvision"] = "0.24.1"
    assert [a for a in doctor._advice(100.0) if "pip uninstall torchvision" in a]
    assert any("full" in a for a in doctor._advice(0.1))


def test_threads_are_tried_and_put_back():
    before = torch.get_num_threads()
    assert doctor.quickest_threads() == 1  # the tests have one
    torch.set_num_threads(2)
    try:
        assert doctor.quickest_threads() in (1, 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
