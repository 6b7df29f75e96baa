"""python3 run.py NAME module:function [args...]  - run a service entry point
under the program name its log lines and service records should carry."""
import importlib
import os
import sys

name, target = sys.argv[1:3]
sys.argv = [name] + sys.argv[3:]
module, function = target.split(':')
entry = getattr(importlib.import_module(module), function)
if name == 'nova-compute':
    # Nova looks for virt drivers inside nova.virt only
    import nova.virt
    nova.virt.__path__.append(os.path.dirname(os.path.abspath(__file__)))
sys.exit(entry())
