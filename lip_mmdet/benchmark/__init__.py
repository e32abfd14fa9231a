"""Time, memory and bytes of the operators (torch alone) and of the backbones (MMDetection)."""
