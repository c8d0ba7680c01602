"""A GigE Vision camera on a line: ``gige_line.py ADDRESS SERIAL``, triggered by pulses that standard input orders.

Aravis' fake camera in this process, with counters of pulses and of missed ones added to its features. A line of input
such as ``100 x 2 1`` is a run of pulses, 100 ms apart: ``1`` is one pulse, ``x`` one that never reaches the
camera's trigger but its counter, ``2`` two at once, which trigger it while it is busy. Prints ``ready``, and ``done``
after each run. To be run in a network namespace of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time

from edgead.runtime import introspection

COUNTER = 0x400
SOURCE = 0x404
MISSES = 0x408
FEATURES = f"""
<Enumeration Name="CounterEventSource" NameSpace="Standard">
  <EnumEntry Name="Off" NameSpace="Standard"><Value>0</Value></EnumEntry>
  <EnumEntry Name="Line0" NameSpace="Standard"><Value>1</Value></EnumEntry>
  <pValue>CounterEventSourceRegister</pValue>
</Enumeration>
<IntReg Name="CounterEventSourceRegister" NameSpace="Custom">
  <Address>{SOURCE:#x}</Address><Length>4</Length><AccessMode>RW</AccessMode><pPort>Device</pPort>
  <Sign>Unsigned</Sign><Endianess>BigEndian</Endianess>
</IntReg>
<IntReg Name="CounterValue" NameSpace="Standard">
  <Address>{COUNTER:#x}</Address><Length>4</Length><AccessMode>RO</AccessMode><pPort>Device</pPort>
  <Cachable>NoCache</Cachable><Sign>Unsigned</Sign><Endianess>BigEndian</Endianess>
</IntReg>
<IntReg Name="MissedTriggers" NameSpace="Custom">
  <Address>{MISSES:#x}</Address><Length>4</Length><AccessMode>RO</AccessMode><pPort>Device</pPort>
  <Cachable>NoCache</Cachable><Sign>Unsigned</Sign><Endianess>BigEndian</Endianess>
</IntReg>
<Port Name="Device" """


def main(address: str, serial: str) -> None:
    aravis = introspection.load("Aravis")
    plain, _ = aravis.FakeCamera.new(serial).get_genicam_xml()
    xml = plain.replace('<Port Name="Device" ', FEATURES)
    with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(xml)
        file.flush()
        server = aravis.GvFakeCamera.new_full(address, serial, file.name)
        assert server.is_running()
        camera = server.get_fake_camera()
        camera.set_trigger_frequency(500)  # how often it looks for a trigger
        print("ready", flush=True)
        for line in sys.stdin:
            period_ms, *pulses = line.split()
            # Its input has no wire: the camera takes what comes here, and whoever asks it still sees the input's name.
            camera.write_register(aravis.FAKE_CAMERA_REGISTER_TRIGGER_SOURCE, 1)
            time.sleep(0.3)  # it looks for the change no sooner
            due_s = time.monotonic()
            for pulse in pulses:
                time.sleep(max(0.0, due_s - time.monotonic()))
                due_s += float(period_ms) / 1e3
                if pulse != "1":
                    _, count = camera.read_register(MISSES)
                    camera.write_register(MISSES, count + 1)
                for _ in range(2 if pulse == "2" else 1):
                    _, count = camera.read_register(COUNTER)
                    _, source = camera.read_register(SOURCE)
                    camera.write_register(COUNTER, count + source)
                    if pulse != "x":
                        camera.write_register(aravis.FAKE_CAMERA_REGISTER_TRIGGER_SOFTWARE, 1)
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
