"""MMDetection's train command with the plugin loaded: the same arguments, all its flags."""

from lip_mmdet.command_line import run_tool


def main() -> None:
    import lip_mmdet.plugin  # noqa: F401
    from lip_mmdet.engine import mmdet_tools

    mmdet_tools.train()


if __name__ == '__main__':
    run_tool(main)
