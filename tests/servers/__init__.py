"""Local stand-ins for the services the pipeline talks to, for tests only.

`hub.HubServer` speaks the Hugging Face Hub's HTTP protocol; `azurite.Azurite` runs Microsoft's
storage emulator. Both are context managers, listen on 127.0.0.1 and pick a free port.
"""
